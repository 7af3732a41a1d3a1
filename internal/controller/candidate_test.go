package controller

import (
	"testing"
	"time"
)

// After the API server was away nodes count as reading everything anew until they have followed twice, one time after the other.
func TestRelistingEndsWithWhatNodesFollow(t *testing.T) {
	c := newCandidate("controller-0")
	check := func(want bool, when string) {
		t.Helper()
		if c.relisting() != want {
			t.Errorf("%s: %t", when, !want)
		}
	}
	check(false, "it was never away")
	before := time.Now()
	c.missed()
	check(true, "it is away")
	c.followed(before)
	c.followed(before)
	check(true, "rounds that began before it was away say nothing")
	c.followed(time.Now())
	check(true, "one round may be part of what a node reads anew")
	c.missed()
	c.followed(time.Now())
	check(true, "away again, it begins again")
	c.followed(time.Now())
	check(false, "a second one is not")
	c.missed()
	c.away = time.Now().Add(-relistTime)
	check(false, "a node that never answers is not waited for any longer")
}
