// Command testserver is the workload of the tests: it serves its pod's name, and asks others.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: testserver serve ADDRESS… | get URL | resolve NAME | touch FILE")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2:])
	case "get":
		err = get(ctx, os.Args[2])
	case "touch":
		err = os.WriteFile(os.Args[2], nil, 0o644)
	case "resolve":
		var found []string
		found, err = net.DefaultResolver.LookupHost(ctx, os.Args[2])
		fmt.Println(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(addresses []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, name) })
	ended := make(chan error)
	for _, a := range addresses {
		go func() { ended <- http.ListenAndServe(a, handler) }()
	}
	return <-ended
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}
