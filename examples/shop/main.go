// Command shop is dayfly's sample application: a small graph of services that is worth altering.
//
//	storefront ──▶ catalog ──▶ stock
//	     └───────▶ orders ───────┘
//
// One binary holds the four services; the first argument says which one this process is. Every answer says who gave it
// and whom they asked (see [Hop]), so that one sees where a request went. Start reading at catalog.go, the service that
// is the most fun to change on a laptop; service.go holds what the four have in common.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

const usage = `shop: dayfly's sample application

usage: shop storefront|catalog|orders|stock
       shop migrate                           bring the database of orders to this version
       shop trail [-H 'name: value']... URL   ask a service and print who answered

environment, with the defaults on a laptop:
  HOST=127.0.0.1                     address to listen on
  PORT=8080|8081|8082|8083           port, in the order above; 0 picks a free one
  ADMIN_PORT=9090                    catalog: second port, plain text; "off" for none
  CATALOG_URL=http://127.0.0.1:8081  storefront: where catalog is
  ORDERS_URL=http://127.0.0.1:8082   storefront: where orders is
  STOCK_URL=http://127.0.0.1:8083    catalog, orders: where stock is
  DATABASE_URL=                      orders: keep them in PostgreSQL, as postgres://shop@orders-database/shop with
                                     the password in PGPASSWORD; in memory if it is empty
  SHOP_VERSION=v1                    the version every answer names
  SHOP_GREETING=...                  storefront: the line under the title
  PRICE_FACTOR=1                     catalog: multiplies every price
  CALL_TIMEOUT=2s|500ms              patience with a downstream: storefront 2s, others 500ms
  KEEP_ALIVE=30s                     how long an idle connection to a downstream is kept; 0s for one per call
  DRAIN=1s                           after SIGTERM: serve for this long, unready, before closing
  LOG_FORMAT=text                    text or json
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is main without the process: 0 for a clean end, 1 for a failure, 2 for wrong usage.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) == 1 && slices.Contains([]string{"help", "-h", "--help"}, args[0]) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if len(args) == 1 && args[0] == "migrate" {
		if err := migrate(ctx, getenv("DATABASE_URL")); err != nil {
			fmt.Fprintf(stderr, "shop: %v\n", err)
			return 1
		}
		return 0
	}
	if len(args) > 0 && args[0] == "trail" {
		if err := trail(ctx, args[1:], stdout); err != nil {
			fmt.Fprintf(stderr, "shop: %v\n", err)
			return 1
		}
		return 0
	}
	if len(args) != 1 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	cfg, err := readConfig(args[0], getenv)
	if err != nil {
		fmt.Fprintf(stderr, "shop: %v\n", err)
		return 2
	}
	log := newLogger(cfg, stderr)
	if err := serve(ctx, cfg, log); err != nil {
		log.Error("stopped", "error", err)
		return 1
	}
	return 0
}

func newLogger(cfg config, w io.Writer) *slog.Logger {
	var h slog.Handler = slog.NewTextHandler(w, nil)
	if cfg.LogFormat == "json" {
		h = slog.NewJSONHandler(w, nil)
	}
	return slog.New(h).With("service", cfg.Service, "version", cfg.Version)
}
