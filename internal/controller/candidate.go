package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// renewDeadline is how long a leader goes on without having renewed its lease.
const renewDeadline = 5 * time.Second

// candidate is this process in the election of the leader. It stays the same when the controller starts over, so that the
// one that led when the API server went away leads again as soon as it is back, without waiting for its own lease to end.
type candidate struct {
	identity string

	mu      sync.Mutex
	term    int64     // in which it led last
	version int64     // of the last table in that term
	away    time.Time // when the API server last did not answer
	rounds  int       // of settling since then, one after the other, in which every node was found to follow
}

func newCandidate(pod string) *candidate {
	return &candidate{identity: pod + "_" + string(uuid.NewUUID())}
}

func (c *candidate) lock(o Options) (resourcelock.Interface, error) {
	config := rest.CopyConfig(o.Config)
	config.UserAgent += "/leader-election"
	config.Timeout = renewDeadline / 2 // one request that hangs costs no lead
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return resourcelock.New(resourcelock.LeasesResourceLock, o.Namespace, leaseName, clients.CoreV1(), clients.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: c.identity})
}

// resume returns the version of the last table that this process made in a term, 0 if there was none: routers refuse what
// is older.
func (c *candidate) resume(term int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term != term {
		c.term, c.version = term, 0
	}
	return c.version
}

func (c *candidate) made(version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = max(c.version, version)
}

// missed records that the API server does not answer.
func (c *candidate) missed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away, c.rounds = time.Now(), 0
}

// relistTime is how long after the API server was away a node counts as about to read everything anew, if it is not known
// to have done so. Nodes try again less and less often, up to a minute apart.
const relistTime = 5 * time.Minute

// relisting says whether the API server was away, and a node may not have read everything anew since. One that does takes
// what it reads in any order, with a round of its own somewhere in between; so that it is through is known only when it has
// followed something that was written after it followed something else.
func (c *candidate) relisting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.away.IsZero() && c.rounds < 2 && time.Since(c.away) < relistTime
}

// followed records a round of settling that began then and in which every node was found to follow.
func (c *candidate) followed(began time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if began.After(c.away) {
		c.rounds++
	}
}

const (
	lookEvery   = time.Second
	lookTimeout = 2 * time.Second
	awayTime    = 4 * time.Second
)

var errWasAway = errors.New("the API server was away: what is known of it may be old")

// noticeAbsence returns an error as soon as the API server answers again after it did not for a while. What watches it has
// been trying less and less often meanwhile, and would see what is new only up to half a minute later.
func noticeAbsence(ctx context.Context, live client.Reader, o Options, me *candidate) error {
	var since time.Time // it does not answer; zero: it does
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		switch answers := answers(ctx, live, o); {
		case answers && !since.IsZero() && time.Since(since) > awayTime:
			return errWasAway
		case answers:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		if !since.IsZero() {
			me.missed()
		}
	}
}

// answers says whether the API server answers, be it with a refusal.
func answers(ctx context.Context, live client.Reader, o Options) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	err := live.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: leaseName}, &coordinationv1.Lease{})
	return err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err)
}
