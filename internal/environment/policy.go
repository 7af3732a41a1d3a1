package environment

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// What holds where no EnvironmentPolicy says otherwise.
const (
	DefaultTTL  = 8 * time.Hour
	defaultWarn = 15 * time.Minute
)

// PolicyFor is the policy that holds for a home with these labels; nil if there is none.
func PolicyFor(policies []v1alpha1.EnvironmentPolicy, home string, of map[string]string) *v1alpha1.EnvironmentPolicy {
	var best *v1alpha1.EnvironmentPolicy
	nearest := 0
	for i := range policies {
		p := &policies[i]
		near := nearness(p.Spec.Homes, home, of)
		if near == 0 || best != nil && cmp.Or(cmp.Compare(p.Spec.Priority, best.Spec.Priority), cmp.Compare(near, nearest), strings.Compare(best.Name, p.Name)) < 0 {
			continue
		}
		best, nearest = p, near
	}
	return best
}

// nearness is how closely a policy selects a home: 3 by its name, 2 by its labels, 1 as any other, 0 not at all.
func nearness(h *v1alpha1.PolicyHomes, home string, of map[string]string) int {
	switch {
	case h == nil:
		return 1
	case slices.Contains(h.Names, home):
		return 3
	case len(h.Labels) > 0 && labels.SelectorFromSet(h.Labels).Matches(labels.Set(of)):
		return 2
	}
	return 0
}

// rules are what a policy says, each part of which may be missing; so may the policy.
type rules struct{ *v1alpha1.EnvironmentPolicy }

func (r rules) guards() v1alpha1.PolicyGuards {
	if r.EnvironmentPolicy == nil || r.Spec.Guards == nil {
		return v1alpha1.PolicyGuards{}
	}
	return *r.Spec.Guards
}

func (r rules) limits() v1alpha1.PolicyLimits {
	if r.EnvironmentPolicy == nil || r.Spec.Limits == nil {
		return v1alpha1.PolicyLimits{}
	}
	return *r.Spec.Limits
}

func (r rules) lifetime() v1alpha1.PolicyLifetime {
	if r.EnvironmentPolicy == nil || r.Spec.Lifetime == nil {
		return v1alpha1.PolicyLifetime{}
	}
	return *r.Spec.Lifetime
}

func (r rules) prices() *v1alpha1.PolicyPrices {
	if r.EnvironmentPolicy == nil {
		return nil
	}
	return r.Spec.Prices
}

// measures says whether the policy needs to know how much an environment asks for.
func (r rules) measures() bool {
	return r.limits().CPU != nil || r.limits().Memory != nil || r.prices() != nil
}

// held is what the status says of the policy.
func (r rules) held() *v1alpha1.HeldPolicy {
	if r.EnvironmentPolicy == nil {
		return nil
	}
	l := r.lifetime()
	return &v1alpha1.HeldPolicy{Name: r.Name, TTL: l.TTL, MaxTTL: l.MaxTTL, NoPin: l.MaxTTL != nil && !l.AllowPin, SleepAfter: l.SleepAfter, SleepsByClock: l.Sleep != nil}
}

// pinned says whether an environment neither ends by its time nor falls asleep by itself.
func (r rules) pinned(s *v1alpha1.EnvironmentSpec) bool {
	return s.Pinned && (r.lifetime().MaxTTL == nil || r.lifetime().AllowPin)
}

// lives is how long an environment lives from when its time counts.
func (r rules) lives(s *v1alpha1.EnvironmentSpec) time.Duration {
	return cmp.Or(s.TTL.Duration, duration(r.lifetime().TTL), DefaultTTL)
}

// sleepAfter is after how long without a request an environment falls asleep; 0: never.
func (r rules) sleepAfter(s *v1alpha1.EnvironmentSpec) time.Duration {
	return cmp.Or(duration(s.SleepAfter), duration(r.lifetime().SleepAfter))
}

// warnBefore is how long before its end an environment that lives so long is said to end soon.
func (r rules) warnBefore(lives time.Duration) time.Duration {
	return cmp.Or(duration(r.lifetime().WarnBefore), min(defaultWarn, lives/4))
}

func duration(d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}
