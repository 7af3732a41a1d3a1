package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// waker asks for environments to be awake, each once at a time.
type waker struct {
	api client.Client
	log *slog.Logger

	mu   sync.Mutex
	busy map[client.ObjectKey]bool
}

// wakeTime bounds one question to the API server.
const wakeTime = 5 * time.Second

// wake asks for an environment to be awake, and does not wait: the table tells what became of it.
func (w *waker) wake(ctx context.Context, e *environment) {
	at := e.key()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[at] || !e.Spec.Asleep() || !e.DeletionTimestamp.IsZero() {
		return
	}
	w.busy[at] = true
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wakeTime)
		defer cancel()
		patch := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":1}}`))
		err := w.api.SubResource("scale").Patch(ctx, e.DeepCopy(), patch, client.WithSubResourceBody(&autoscalingv1.Scale{}))
		if err != nil {
			w.log.Warn("waking", "environment", at.String(), "error", err)
			time.Sleep(time.Second) // before it is tried again
		} else {
			w.log.Info("woken by a request", "environment", at.String())
			time.Sleep(100 * time.Millisecond) // until the table has heard of it
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.busy, at)
	}()
}

// activityEvery is how often it is looked whose use is to be told.
const activityEvery = time.Second

// activity tells when environments that fall asleep by themselves were last asked.
func (g *Gateway) activity(ctx context.Context) {
	tick := time.NewTicker(activityEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, e := range g.table.used(time.Now()) {
			if err := g.tell(ctx, e); client.IgnoreNotFound(err) != nil && ctx.Err() == nil {
				e.use.untold()
				g.opts.Logger.Warn("telling of use", "environment", e.key().String(), "error", err)
			}
		}
	}
}

// used are the environments whose use is to be told now: at least four times in the time after which they would sleep or end.
func (t *table) used(now time.Time) []*environment {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []*environment
	for _, e := range t.envs {
		if after := e.restless(); after > 0 && e.use.due(now, min(max(after/4, 2*time.Second), 30*time.Second)) {
			out = append(out, e)
		}
	}
	return out
}

// restless is after how long without use something becomes of an environment; 0: nothing does.
func (e *environment) restless() time.Duration {
	p := e.Status.Policy
	switch {
	case e.Spec.SleepAfter != nil:
		return e.Spec.SleepAfter.Duration
	case p != nil && p.SleepAfter != nil:
		return p.SleepAfter.Duration
	case e.Spec.TTLFrom == v1alpha1.TTLFromActivity || p != nil && p.SleepsByClock:
		return time.Hour // or minutes: it is told twice a minute
	}
	return 0
}

func (u *use) due(now time.Time, every time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.open) > 0 {
		u.last = now
	}
	if !u.last.After(u.reported) || now.Sub(u.reported) < every {
		return false
	}
	u.reported = now
	return true
}

// untold has the use told again soon.
func (u *use) untold() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reported = time.Time{}
}

func (g *Gateway) tell(ctx context.Context, e *environment) error {
	ctx, cancel := context.WithTimeout(ctx, wakeTime)
	defer cancel()
	data, err := json.Marshal(map[string]any{"status": map[string]any{"lastRequest": metav1.Now()}})
	if err != nil {
		return err
	}
	return g.api.Status().Patch(ctx, e.DeepCopy(), client.RawPatch(types.MergePatchType, data))
}
