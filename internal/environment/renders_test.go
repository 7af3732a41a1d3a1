package environment

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Whoever asks is rendered once, in turn, two at a time, and is woken; whoever asks again meanwhile is not rendered twice.
func TestRenderingIsInTurnAndNobodyWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		woken, rendered, at := 0, []string{}, 0
		r := newRenders(func(client.ObjectKey, time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			woken++
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.run(ctx, func(_ context.Context, e *v1alpha1.Environment) {
				mu.Lock()
				if at++; at > RendersAtOnce {
					t.Errorf("%d at once", at)
				}
				rendered = append(rendered, e.Name)
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				at--
				mu.Unlock()
			})
		}()
		var want []string
		for i := range 6 {
			e := anEnvironment()
			e.Name = fmt.Sprint(i)
			e.UID = "u" + e.UID
			e.Spec.Blueprint = e.Name
			want = append(want, e.Name)
			r.ask(e)
			r.ask(e)
			synctest.Wait()
		}
		time.Sleep(2900 * time.Millisecond)
		synctest.Wait()
		if !slices.Equal(rendered, want) || woken != 4 {
			t.Errorf("after 2.9 s %v are rendered, and %d are done", rendered, woken)
		}
		time.Sleep(time.Second)
		cancel()
		<-done
		if woken != len(want) || len(r.asked) != 0 {
			t.Errorf("%d were woken, %d are left", woken, len(r.asked))
		}
	})
}
