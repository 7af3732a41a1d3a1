//go:build !faults

package main

import (
	"time"

	"dayfly.dev/dayfly/internal/identity"
	"k8s.io/client-go/transport"
)

// A build for tests (-tags faults) dies where it is told to, has another clock, or issues other certificates. This build
// does nothing of the kind.
func faultPoint() transport.WrapperFunc { return nil }
func faultAt() func(string)             { return nil }
func faultClock() func() time.Time      { return nil }
func faultValidity() identity.Validity  { return identity.Validity{} }
