package main

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"time"
)

// config is everything a service is told, read from the environment once.
type config struct {
	Service   string // storefront, catalog, orders or stock
	Version   string
	Hostname  string // the pod's name in a cluster, the laptop's elsewhere
	Host      string
	Port      string
	AdminPort string // "" for none

	CatalogURL, OrdersURL, StockURL *url.URL

	DatabaseURL string // of orders; "" for none

	Greeting    string
	PriceFactor float64

	CallTimeout time.Duration
	KeepAlive   time.Duration
	Drain       time.Duration
	LogFormat   string
}

// The ports are the same in a pod and on a laptop, and differ from one another, so that all four run side by side.
func defaultPort(service string) (port string, known bool) {
	switch service {
	case "storefront":
		return "8080", true
	case "catalog":
		return "8081", true
	case "orders":
		return "8082", true
	case "stock":
		return "8083", true
	}
	return "", false
}

// readConfig reads the environment of one service. Its errors are for the person who set the variable.
func readConfig(service string, getenv func(string) string) (config, error) {
	port, known := defaultPort(service)
	if !known {
		return config{}, fmt.Errorf("there is no service %q: use storefront, catalog, orders or stock", service)
	}
	hostname, err := os.Hostname()
	if err != nil {
		return config{}, fmt.Errorf("reading the host's name: %w", err)
	}
	patience := 500 * time.Millisecond
	if service == "storefront" {
		patience = 2 * time.Second // the edge waits for services that wait themselves
	}
	env := environment{get: getenv}
	cfg := config{
		Service:     service,
		Hostname:    hostname,
		Version:     env.label("SHOP_VERSION", "v1"),
		Host:        env.text("HOST", "127.0.0.1"),
		Port:        env.port("PORT", port),
		CatalogURL:  env.url("CATALOG_URL", "http://127.0.0.1:8081"),
		OrdersURL:   env.url("ORDERS_URL", "http://127.0.0.1:8082"),
		StockURL:    env.url("STOCK_URL", "http://127.0.0.1:8083"),
		Greeting:    env.text("SHOP_GREETING", "Six fine things, each of which lasts a day."),
		PriceFactor: env.factor("PRICE_FACTOR", 1),
		CallTimeout: env.duration("CALL_TIMEOUT", patience),
		KeepAlive:   env.duration("KEEP_ALIVE", 30*time.Second),
		Drain:       env.duration("DRAIN", time.Second),
		LogFormat:   env.text("LOG_FORMAT", "text"),
	}
	if service == "orders" {
		cfg.DatabaseURL = getenv("DATABASE_URL")
	}
	if service == "catalog" && getenv("ADMIN_PORT") != "off" {
		cfg.AdminPort = env.port("ADMIN_PORT", "9090")
	}
	if cfg.LogFormat != "text" && cfg.LogFormat != "json" {
		env.fail("LOG_FORMAT", cfg.LogFormat, "text or json")
	}
	return cfg, env.err
}

// environment reads variables and keeps the first error, so that readConfig reads as a table.
type environment struct {
	get func(string) string
	err error
}

func (e *environment) fail(name, value, want string) {
	if e.err == nil {
		e.err = fmt.Errorf("%s is %q: use %s", name, value, want)
	}
}

func (e *environment) text(name, fallback string) string {
	if v := e.get(name); v != "" {
		return v
	}
	return fallback
}

var labelShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// label reads a value that goes into a header.
func (e *environment) label(name, fallback string) string {
	v := e.text(name, fallback)
	if !labelShape.MatchString(v) {
		e.fail(name, v, "up to 63 letters, digits, dots, dashes and underscores")
	}
	return v
}

func (e *environment) port(name, fallback string) string {
	v := e.text(name, fallback)
	if _, err := strconv.ParseUint(v, 10, 16); err != nil {
		e.fail(name, v, "a port from 0 to 65535")
	}
	return v
}

func (e *environment) url(name, fallback string) *url.URL {
	v := e.text(name, fallback)
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		e.fail(name, v, "a URL such as "+fallback)
	}
	return u
}

func (e *environment) duration(name string, fallback time.Duration) time.Duration {
	v := e.text(name, fallback.String())
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > time.Minute {
		e.fail(name, v, "a duration from 0s to 1m, such as "+fallback.String())
	}
	return d
}

func (e *environment) factor(name string, fallback float64) float64 {
	v := e.text(name, strconv.FormatFloat(fallback, 'g', -1, 64))
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || !(f >= 0 && f <= 1000) { // the negation refuses NaN too
		e.fail(name, v, "a number from 0 to 1000, such as 0.5")
	}
	return f
}
