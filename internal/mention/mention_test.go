package mention

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMentionsAreHostsAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		why, key, value string
		want            []Mention
	}{
		{"a URL", "ANY", "http://catalog:80/items", []Mention{{Host: "catalog", Port: 80, Sure: true, Web: 80}}},
		{"a URL without a port", "ANY", "https://catalog", []Mention{{Host: "catalog", Sure: true, Web: 443}}},
		{"a database's URL with a password", "DSN", "postgres://u:p%40ss@db.shop:5432/x?sslmode=off", []Mention{{Host: "db.shop", Port: 5432, Sure: true}, {Host: "db.shop", Port: 5432}}},
		{"several hosts in one URL", "ANY", "mongodb://a:1,b:2/x", []Mention{{Host: "a", Port: 1, Sure: true}, {Host: "b", Port: 2, Sure: true}, {Host: "b", Port: 2}}},
		{"JDBC", "ANY", "jdbc:postgresql://db:5432/shop", []Mention{{Host: "db", Port: 5432, Sure: true}}},
		{"Go's MySQL", "ANY", "u:p@tcp(db:3306)/shop", []Mention{{Host: "db", Port: 3306}}},
		{"a name with a port", "ANY", "catalog:80", []Mention{{Host: "catalog", Port: 80}}},
		{"brokers", "KAFKA_BROKERS", "k0:9092,k1:9092", []Mention{{Host: "k0", Port: 9092}, {Host: "k1", Port: 9092}, {Host: "k0", Port: 9092, Sure: true}, {Host: "k1", Port: 9092, Sure: true}}},
		{"a full name", "ANY", "catalog.shop.svc.cluster.local", []Mention{{Host: "catalog.shop.svc.cluster.local", Sure: true}}},
		{"a host's variable", "CATALOG_HOST", "catalog", []Mention{{Host: "catalog", Sure: true}}},
		{"a service's variable", "CATALOG_SERVICE", "catalog.shop", []Mention{{Host: "catalog.shop", Sure: true}}},
		{"camel case", "catalogUrl", "catalog", []Mention{{Host: "catalog", Sure: true}}},
		{"a flag", "catalog-addr", "catalog", []Mention{{Host: "catalog", Sure: true}}},
		{"libpq's", "PGHOST", "db", []Mention{{Host: "db", Sure: true}}},
		{"a word is no host", "FEATURE", "catalog", nil},
		{"the service's own name is no call", "OTEL_SERVICE_NAME", "catalog", nil},
		{"a path", "CATALOG_PATH", "/srv/catalog", nil},
		{"a sentence", "GREETING", "welcome to the catalog", nil},
		{"a substring", "ANY", "mycatalog.example.com/catalog", nil},
		{"an address", "HOST", "0.0.0.0", nil},
		{"a port alone", "HOST", ":8080", nil},
		{"an e-mail address", "FROM", "shop@catalog", nil},
		{"a class", "MAIN", "com.example.catalog.Main", nil},
	} {
		if diff := cmp.Diff(c.want, mentionsOf(c.key, c.value)); diff != "" {
			t.Errorf("%s: %s=%s (-want +got):\n%s", c.why, c.key, c.value, diff)
		}
	}
}
