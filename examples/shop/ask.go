package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// trail asks a service of the shop and prints who answered, from inside a cluster where there is no curl:
//
//	shop trail -H 'baggage: dayfly=demo' http://storefront/api/shop
func trail(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("trail", flag.ContinueOnError)
	header := http.Header{}
	flags.Func("H", "'name: value' to send; can be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return errors.New("a header is written 'name: value'")
		}
		header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("name one URL")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, flags.Arg(0), nil)
	if err != nil {
		return err
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", req.URL, resp.Status)
	}
	_, err = fmt.Fprintln(out, resp.Header.Get("X-Trail"))
	return err
}
