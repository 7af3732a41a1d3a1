package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestSettingsThatCannotBeMeantAreRefused(t *testing.T) {
	t.Parallel()
	tests := []struct{ service, name, value, want string }{
		{"basket", "", "", `there is no service "basket": use storefront, catalog, orders or stock`},
		{"catalog", "PORT", "tcp://10.0.0.1:80", `PORT is "tcp://10.0.0.1:80": use a port from 0 to 65535`},
		{"catalog", "ADMIN_PORT", "none", `ADMIN_PORT is "none": use a port`},
		{"catalog", "STOCK_URL", "stock:80", `STOCK_URL is "stock:80": use a URL such as http://127.0.0.1:8083`},
		{"catalog", "PRICE_FACTOR", "NaN", `PRICE_FACTOR is "NaN": use a number from 0 to 1000`},
		{"catalog", "PRICE_FACTOR", "-1", `PRICE_FACTOR is "-1"`},
		{"catalog", "SHOP_VERSION", "v1\r\nX: y", `SHOP_VERSION is "v1\r\nX: y": use up to 63 letters`},
		{"storefront", "CALL_TIMEOUT", "2", `CALL_TIMEOUT is "2": use a duration from 0s to 1m, such as 2s`},
		{"stock", "LOG_FORMAT", "xml", `LOG_FORMAT is "xml": use text or json`},
	}
	for _, test := range tests {
		var stderr bytes.Buffer
		getenv := func(name string) string {
			if name == test.name {
				return test.value
			}
			return ""
		}
		code := run(t.Context(), []string{test.service}, getenv, &stderr, &stderr)
		if code != 2 || !strings.Contains(stderr.String(), test.want) {
			t.Errorf("%s %s=%q: exit %d, %s, want %s", test.service, test.name, test.value, code, &stderr, test.want)
		}
	}
}

func TestAdminPortCanBeLeftOut(t *testing.T) {
	t.Parallel()
	cfg, err := readConfig("catalog", func(name string) string { return map[string]string{"ADMIN_PORT": "off"}[name] })
	if err != nil || cfg.AdminPort != "" {
		t.Errorf("admin port %q, %v", cfg.AdminPort, err)
	}
}

// The manifests rely on the defaults for ports, so the two must agree.
func TestManifestsUseTheDefaultPorts(t *testing.T) {
	t.Parallel()
	for _, service := range []string{"storefront", "catalog", "orders", "stock"} {
		b, err := os.ReadFile("deploy/" + service + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		port, _ := defaultPort(service)
		for _, want := range []string{"containerPort: " + port + "\n", fmt.Sprintf("args: [%q]", service)} {
			if !strings.Contains(string(b), want) {
				t.Errorf("deploy/%s.yaml has no %q", service, want)
			}
		}
	}
}
