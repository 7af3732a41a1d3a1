package usererr

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

// The codes are part of the command's interface: a change here breaks scripts.
func TestCodesAreStable(t *testing.T) {
	t.Parallel()
	for i, c := range []Code{OK, Failed, Usage, NoCluster, NotInstalled, Forbidden, NotFound, Refused, Conflict, TimedOut} {
		if int(c) != i {
			t.Errorf("code %d has become %d", i, c)
		}
	}
}

func TestProblemFixAndCauseSurviveWrapping(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("closing: %w", New(Conflict, "wait", "%s holds it", "ada").Because(io.EOF))
	if CodeOf(err) != Conflict || FixOf(err) != "wait" || !errors.Is(err, io.EOF) || err.Error() != "closing: ada holds it: EOF" {
		t.Errorf("code %d, fix %q, %q", CodeOf(err), FixOf(err), err)
	}
	if CodeOf(nil) != OK || CodeOf(io.EOF) != Failed || FixOf(io.EOF) != "" {
		t.Error("an error that names no code has one, or a fix")
	}
}
