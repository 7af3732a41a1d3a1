package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/share"
	"dayfly.dev/dayfly/internal/source"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// jobOf is a Job of an environment.
func jobOf(t *testing.T, lives, name string) *batchv1.Job {
	t.Helper()
	j := &batchv1.Job{}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: lives, Name: name}, j))
	return j
}

// totalOrders asks how many orders the database of an environment of the shop holds.
func totalOrders(v *visitor, url string, headers ...string) (int, error) {
	var got struct{ Total int }
	code, text, err := v.try("GET", url, nil, headers...)
	if err == nil && code != 200 {
		err = fmt.Errorf("%d: %s", code, text)
	}
	return got.Total, cmp.Or(err, json.Unmarshal([]byte(text), &got))
}

func checkTotal(t *testing.T, when string, want int, v *visitor, url string, headers ...string) {
	t.Helper()
	if n, err := totalOrders(v, url, headers...); err != nil || n != want {
		t.Errorf("%s: %d orders, %v; want %d", when, n, err, want)
	}
}

// The shop comes with a PostgreSQL of 100,000 orders: seeded once, migrated with every revision, kept through a sleep, and gone with
// the environment.
func TestEnvironmentBringsItsData(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	v := newVisitor(t)
	start := time.Now()
	l.dayfly("env", "create", "pr-1", "-f", "../../examples/shop")
	t.Logf("the shop is ready with its data after %v", time.Since(start).Round(10*time.Millisecond))
	lives := "env-" + home + "-pr-1"
	token, _ := shared(t, l, "pr-1")
	url, header := addressOf(t, home, "pr-1", "orders")+"/orders", []string{share.Header, token}
	checkTotal(t, "seeded", 100_000, v, url, header...)
	code, text, err := v.try("POST", url, strings.NewReader(`{"product": "dew", "quantity": 2}`), append(header, "Content-Type", "application/json")...)
	if err != nil || code != 201 {
		t.Fatalf("ordering: %d %s, %v", code, text, err)
	}
	seed, migrate := jobOf(t, lives, "orders-database-seed"), jobOf(t, lives, "orders-migrate")

	l.dayfly("env", "sleep", "pr-1")
	checkTotal(t, "after a sleep, from which this wakes it", 100_001, v, url, header...)
	l.dayfly("env", "wake", "pr-1")
	if jobOf(t, lives, "orders-migrate").UID != migrate.UID {
		t.Error("it was migrated again though the revision is the same")
	}
	l.dayfly("env", "update", "pr-1", "--replicas", "catalog=1")
	if jobOf(t, lives, "orders-migrate").UID == migrate.UID {
		t.Error("another revision was not migrated")
	}
	if jobOf(t, lives, "orders-database-seed").UID != seed.UID {
		t.Error("it was seeded twice")
	}
	checkTotal(t, "after an update", 100_001, v, url, header...)

	volumes := volumesOf(t, lives)
	if len(volumes) != 1 {
		t.Errorf("volumes: %v", volumes)
	}
	l.dayfly("env", "delete", "pr-1")
	checkNobodySpeaksOf(t, lives)
	await(t, promise(10*time.Second), "its volume is gone", func() error { return noVolumesOf(t, lives) })
}

func noVolumesOf(t *testing.T, ns string) error {
	if left := volumesOf(t, ns); len(left) > 0 {
		return fmt.Errorf("left: %v", left)
	}
	return nil
}

// volumesOf are the volumes that claims of a namespace are bound to.
func volumesOf(t *testing.T, ns string) map[string]types.UID {
	t.Helper()
	var list corev1.PersistentVolumeList
	must(t, cluster.List(t.Context(), &list))
	out := map[string]types.UID{}
	for _, pv := range list.Items {
		if c := pv.Spec.ClaimRef; c != nil && c.Namespace == ns {
			out[pv.Name] = pv.UID
		}
	}
	return out
}

// Data of real people are seen by whoever has a link, and by nobody else until they are masked. Without a claim they go with their
// pod, and come again.
func TestPersonalDataAreMaskedBeforeAnybodySeesThem(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	v := newVisitor(t)
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("../../examples/shop")))
	write := func(name, text string) {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	edit := func(name, old, with string) {
		text, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		if !strings.Contains(string(text), old) {
			t.Fatalf("%s has no %q", name, old)
		}
		write(name, strings.Replace(string(text), old, with, 1))
	}
	write("with-database/mask.sql", "delete from orders where id > 'seed-000010';\n")
	database, err := os.ReadFile(filepath.Join(dir, "with-database/database.yaml"))
	must(t, err)
	head, _, _ := strings.Cut(string(database), "  volumeClaimTemplates:")
	write("with-database/database.yaml", strings.Replace(head, "      volumes:\n", "      volumes:\n        - name: data\n          emptyDir: {}\n", 1))
	edit("dayfly.yaml", "class: synthetic", "class: pii")
	l.dayfly("env", "create", "pr-1", "-f", dir, "--public", "--only", "orders")
	lives := "env-" + home + "-pr-1"
	url := addressOf(t, home, "pr-1", "orders") + "/orders"
	if code, text := v.get(url); code != 401 || strings.Contains(text, "seed-") {
		t.Errorf("personal data are public: %d %s", code, text)
	}
	if out := l.dayfly("env", "show", "pr-1"); !strings.Contains(out, "keeps personal data: the environment is not made public") {
		t.Errorf("it does not say why it is not public:\n%s", out)
	}

	edit("dayfly.yaml", "        seed: {", "        mask: {sql: with-database/mask.sql}\n        seed: {")
	l.dayfly("env", "update", "pr-1", "-f", dir)
	if jobOf(t, lives, "orders-database-mask").Status.Succeeded != 1 {
		t.Error("it was not masked")
	}
	checkTotal(t, "masked", 10, v, url)

	seed := jobOf(t, lives, "orders-database-"+source.Seed)
	kubectl(t, "-n", lives, "delete", "pod", "orders-database-0", "--wait=true")
	await(t, promise(20*time.Second), "it is seeded again", func() error {
		j := &batchv1.Job{}
		if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(seed), j); err != nil || j.UID == seed.UID {
			return fmt.Errorf("the seed is the old one, or none: %v", err)
		}
		return nil
	})
	await(t, promise(20*time.Second), "its data are there again", func() error {
		n, err := totalOrders(v, url)
		if err == nil && n != 10 {
			err = fmt.Errorf("%d orders", n)
		}
		return err
	})
}
