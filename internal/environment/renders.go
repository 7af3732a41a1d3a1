package environment

import (
	"context"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// RendersAtOnce bounds what rendering takes of the controller's memory and time.
	RendersAtOnce = 2
	// renderTime bounds one rendering, with what it is rendered from.
	renderTime = time.Minute
)

// renders are the environments whose content is to be rendered, in the order in which they have asked. No pass waits for that: others
// would wait for the pass.
type renders struct {
	wake func(at client.ObjectKey, after time.Duration)
	more chan struct{} // there may be some for another that is free

	mu      sync.Mutex
	waiting []*v1alpha1.Environment
	asked   map[string]bool // by contentID: those that wait, or are being rendered
}

func newRenders(wake func(client.ObjectKey, time.Duration)) *renders {
	return &renders{wake: wake, more: make(chan struct{}, 1), asked: map[string]bool{}}
}

// ask has an environment's content rendered, unless that is so already.
func (r *renders) ask(env *v1alpha1.Environment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id := contentID(env); !r.asked[id] {
		r.asked[id] = true
		r.waiting = append(r.waiting, env.DeepCopy())
		r.signal()
	}
}

func (r *renders) signal() {
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// run renders until ctx ends.
func (r *renders) run(ctx context.Context, do func(context.Context, *v1alpha1.Environment)) {
	var wg sync.WaitGroup
	for range RendersAtOnce {
		wg.Go(func() {
			for env := r.next(ctx); env != nil; env = r.next(ctx) {
				one, cancel := context.WithTimeout(ctx, renderTime)
				do(one, env)
				cancel()
				r.done(env)
				r.wake(client.ObjectKeyFromObject(env), 0)
			}
		})
	}
	wg.Wait()
}

// next waits for an environment to be rendered; nil once ctx has ended.
func (r *renders) next(ctx context.Context) *v1alpha1.Environment {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.more:
		}
		if env := r.take(); env != nil {
			return env
		}
	}
}

func (r *renders) take() *v1alpha1.Environment {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return nil
	}
	env := r.waiting[0]
	r.waiting = r.waiting[1:]
	if len(r.waiting) > 0 {
		r.signal()
	}
	return env
}

func (r *renders) done(env *v1alpha1.Environment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.asked, contentID(env))
}

// renderOne makes the content of an environment known. What says nothing of it is asked for again.
func (e *Engine) renderOne(ctx context.Context, env *v1alpha1.Environment) {
	b, err := e.blueprint(ctx, env)
	if err != nil {
		return
	}
	components, err := e.render(ctx, env, b)
	if ctx.Err() == nil {
		e.known.put(contentID(env), components, err)
	}
}
