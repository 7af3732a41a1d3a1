package environment

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/fetch"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Fetcher is how sources are fetched.
type Fetcher struct {
	// Reach finds out whether anybody answers there; that takes nothing but time.
	Reach func(context.Context, fetch.Request) error
	// Fetch fetches, within bounds of time and memory.
	Fetch func(context.Context, fetch.Request) (*fetch.Fetched, error)
	// Refused are the addresses that sources may not have, beside those that are never connected to.
	Refused func(context.Context) ([]netip.Addr, error)
	// Account that reads the Secrets of sources, as kubectl names it, for messages: NAMESPACE:NAME.
	Account string
}

const (
	// FetchesAtOnce bounds what fetching takes of the controller's memory, and fetchesOfOne how much of that one home may have, so
	// that slow servers of one do not keep others waiting.
	FetchesAtOnce = 3
	fetchesOfOne  = 2
	// reachesAtOnce is how many servers are tried at once. That takes next to nothing, and whoever cannot be reached gets no further.
	reachesAtOnce = 32

	reachTime = 15 * time.Second
	fetchTime = time.Minute

	firstRetry, lastRetry = 5 * time.Second, 5 * time.Minute
)

// fetches are the sources that are being fetched, or were and are not kept yet.
type fetches struct {
	reader client.Reader
	Fetcher

	reach, fetch chan *job // to those who are free

	mu   sync.Mutex
	jobs map[client.ObjectKey]*job
}

// job is to fetch one source of one environment. Its first fields do not change.
type job struct {
	home   string
	uid    types.UID
	source v1alpha1.Source
	lookup string

	doing   doing
	request *fetch.Request // once the Secret was read; no longer than until it was used
	got     *fetch.Fetched
	at      time.Time // that it was got
	kept    bool
	tries   int
	err     error
	since   time.Time // of the first that failed
	again   time.Time // that it is tried; zero: it is under way
}

type doing int

const (
	waitsToReach doing = iota
	reaching
	waitsToFetch
	fetching
	rests
)

func newFetches(reader client.Reader, f Fetcher) *fetches {
	return &fetches{reader: reader, Fetcher: f, reach: make(chan *job), fetch: make(chan *job), jobs: map[client.ObjectKey]*job{}}
}

// run fetches until ctx ends.
func (f *fetches) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	serve := func(from chan *job, most time.Duration, do func(context.Context, *job)) {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case j := <-from:
					one, cancel := context.WithTimeout(ctx, most)
					do(one, j)
					cancel()
				}
			}
		})
	}
	for range reachesAtOnce {
		serve(f.reach, reachTime, f.reachOne)
	}
	for range FetchesAtOnce {
		serve(f.fetch, fetchTime, f.fetchOne)
	}
}

// look says how it stands with an environment's source, and brings it further where there is room. It never waits.
func (f *fetches) look(at client.ObjectKey, env *v1alpha1.Environment, now time.Time) job {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := f.jobs[at]
	if j == nil || j.uid != env.UID || j.lookup != lookup(env) {
		j = &job{home: at.Namespace, uid: env.UID, source: *env.Spec.Source.DeepCopy(), lookup: lookup(env)}
		f.jobs[at] = j
	}
	if j.doing == rests && !j.again.IsZero() && !now.Before(j.again) {
		j.doing, j.again, j.got = waitsToReach, time.Time{}, nil
	}
	switch {
	case j.doing == waitsToReach:
		j.offer(f.reach, reaching)
	case j.doing == waitsToFetch && f.ofHome(j.home) < fetchesOfOne:
		j.offer(f.fetch, fetching)
	}
	return *j
}

// offer gives the job to somebody who is free, if anybody is.
func (j *job) offer(to chan *job, then doing) {
	before := j.doing
	j.doing = then
	select {
	case to <- j:
	default:
		j.doing = before
	}
}

// ofHome is how many sources of a home are being fetched. f.mu is held.
func (f *fetches) ofHome(home string) int {
	n := 0
	for _, j := range f.jobs {
		if j.home == home && j.doing == fetching {
			n++
		}
	}
	return n
}

func (f *fetches) forget(at client.ObjectKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.jobs, at)
}

// stored notes that what was fetched is kept, or why not.
func (f *fetches) stored(at client.ObjectKey, err error, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := f.jobs[at]
	switch {
	case j == nil:
	case err != nil:
		j.failed(fmt.Errorf("keeping what was fetched: %w", err), now)
	default:
		j.kept = true
	}
}

// failed has a job tried again, later each time. f.mu is held.
func (j *job) failed(err error, now time.Time) {
	if j.tries++; j.tries == 1 {
		j.since = now
	}
	j.err, j.request, j.got, j.doing = err, nil, nil, rests // what was got would be kept in memory until then
	j.again = now.Add(min(firstRetry<<min(j.tries-1, 10), lastRetry))
}

// reachOne reads what opens a source, and finds out whether anybody is there.
func (f *fetches) reachOne(ctx context.Context, j *job) {
	request, err := f.ask(ctx, j)
	if err == nil {
		err = f.Reach(ctx, *request)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		j.failed(err, time.Now())
		return
	}
	j.request, j.doing = request, waitsToFetch
}

func (f *fetches) fetchOne(ctx context.Context, j *job) {
	f.mu.Lock()
	request := *j.request
	f.mu.Unlock()
	got, err := f.Fetch(ctx, request)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		j.failed(err, time.Now())
		return
	}
	j.got, j.at, j.err, j.request, j.doing = got, time.Now(), nil, nil, rests
}

// ask puts together what is needed to fetch a source.
func (f *fetches) ask(ctx context.Context, j *job) (*fetch.Request, error) {
	refused, err := f.Refused(ctx)
	if err != nil {
		return nil, err
	}
	r := &fetch.Request{Source: j.source, Refused: refused}
	name := j.source.Folder().SecretName
	if name == "" {
		return r, nil
	}
	r.Secret, err = secretOf(ctx, f.reader, j.home, name, f.Account, fetch.Name(&j.source))
	return r, err
}
