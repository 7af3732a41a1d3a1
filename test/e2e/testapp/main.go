// Command testapp is the application that the story tests alter: a server that says who answered on which connection, and
// the clients that watch it.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2:])
	case "env":
		err = env(os.Args[2:])
	case "get":
		err = get(os.Args[2:])
	case "load":
		err = load(os.Args[2:])
	case "probe":
		err = probe(os.Args[2:])
	case "collect":
		err = collect()
	case "hammer":
		err = hammer(os.Args[2:])
	case "fetch":
		err = fetch(os.Args[2:])
	case "stream":
		err = stream(os.Args[2:])
	case "delay":
		err = delay(os.Args[2:])
	case "longway":
		err = longway(os.Args[2:])
	case "askudp":
		err = askUDP(os.Args[2:])
	case "loadudp":
		err = loadUDP(os.Args[2:])
	case "reverseproxy":
		err = reverseproxy(os.Args[2:])
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testapp:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: testapp serve [-name NAME] [-http :8080] [-echo :9090] | get [-H 'name: value']… URL | load -http HOST:PORT [-echo HOST:PORT] [-key KEY] | probe ADDRESS…")
	os.Exit(2)
}
