package environment

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// longestDatabase is the longest name that PostgreSQL has for anything.
const longestDatabase = 63

// cloneFor is the database that is made for a component of an environment. No other has its name, whatever else is on its server.
func cloneFor(e *v1alpha1.Environment, component string, c *source.Clone) v1alpha1.DatabaseClone {
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, e.Namespace+"_"+e.Name)
	tail := "_" + hash([]any{e.UID, component, c})
	head := "env_" + plain
	return v1alpha1.DatabaseClone{Name: head[:min(len(head), longestDatabase-len(tail))] + tail, Component: component, Of: c.Database, SecretName: c.Secret}
}

// open puts into the Secret of a component's clone what opens it: what the Secret holds already, if that is what was put there, or
// what is known of a database that was made just now.
func (p *part) open(o *Observed) {
	for i := range p.members {
		m := &p.members[i]
		if m.clone == nil {
			continue
		}
		p.cloned = cloneFor(o.Env, p.name, m.clone).Name
		if !slices.ContainsFunc(p.members, func(other member) bool { return other.step == source.Mask }) {
			p.data = source.Stricter(p.data, o.classOf(p.cloned))
		}
		if m.object == nil {
			continue
		}
		if live := o.Live[m.key]; live != nil {
			data, _, _ := unstructured.NestedMap(live.Object, "data")
			if with := opened(m.object, data); len(data) > 0 && live.GetAnnotations()[annotationHash] == hashOf(with) {
				m.object = with
				continue
			}
		}
		login := o.Clones[p.cloned].login
		if m.shut = login == nil; m.shut {
			continue
		}
		data := map[string]any{}
		for k, v := range login {
			data[k] = base64.StdEncoding.EncodeToString([]byte(v))
		}
		m.object = opened(m.object, data)
	}
}

// hasClones says whether an environment has databases elsewhere, or is to have some: what opens one, only its Secret knows for good.
func hasClones(o *Observed) bool {
	return len(o.Env.Status.Clones) > 0 || slices.ContainsFunc(o.Content, func(c source.Component) bool {
		return slices.ContainsFunc(c.Objects, func(u *unstructured.Unstructured) bool { return source.CloneOf(u) != nil })
	})
}

// opened is a Secret with what is in it.
func opened(secret *unstructured.Unstructured, data map[string]any) *unstructured.Unstructured {
	secret = secret.DeepCopy() // it is others' too
	secret.Object["data"] = data
	return secret
}

// classOf is the class of what a clone was made of; what is not known yet may be anything.
func (o *Observed) classOf(database string) string {
	for _, c := range o.Env.Status.Clones {
		if c.Name == database && c.Class != "" {
			return c.Class
		}
	}
	return source.Personal
}

// allowed says whether the environment may have data cloned with a Secret: admission has asked who made it so.
func (o *Observed) allowed(secret string) bool {
	return slices.Contains(o.Env.Spec.DataSecrets, secret)
}

// cloneState says how it stands with a database that is not known to be there.
func (o *Observed) cloneState(m member) (v1alpha1.ComponentState, string) {
	c := cloneFor(o.Env, m.name, m.clone) // the Secret has the component's name
	switch err := o.Clones[c.Name].err; {
	case !o.allowed(c.SecretName):
		return v1alpha1.ComponentFailing, fmt.Sprintf("its data are cloned with Secret %s, which the environment does not name: dayfly env update %s --data-secret %s", c.SecretName, o.Env.Name, c.SecretName)
	case err != nil:
		return v1alpha1.ComponentFailing, fmt.Sprintf("cloning database %s: %s", clean(c.Of), saysOf(err))
	}
	return v1alpha1.ComponentStarting, fmt.Sprintf("database %s is being made, a copy of %s", c.Name, clean(c.Of))
}

// cloneNow is the database that a component has made now, if it is its time. That is written down before it is begun.
func (d *decision) cloneNow(p part, m member) []v1alpha1.DatabaseClone {
	c := cloneFor(d.Env, p.name, m.clone)
	if !d.allowed(c.SecretName) || !d.now(c.Name, false) {
		return nil
	}
	if i := slices.IndexFunc(d.st.Clones, func(have v1alpha1.DatabaseClone) bool { return have.Name == c.Name }); i >= 0 {
		c = d.st.Clones[i]
	} else {
		d.st.Clones = append(d.st.Clones, c)
	}
	return []v1alpha1.DatabaseClone{c}
}

// now says whether a database is to be made, or taken away, at this moment: nothing goes on with it, nor has just failed.
func (d *decision) now(database string, drop bool) bool {
	s := d.Clones[database]
	if s.running {
		d.recheck = min(d.recheck, lookForFetched)
		return false
	}
	if left := s.again.Sub(d.Now); left > 0 && s.drop == drop && s.login == nil {
		d.recheck = min(d.recheck, left)
		return false
	}
	return true
}

// cloned writes down on which servers the databases are, or are about to be.
func (d *decision) cloned() {
	for i := range d.st.Clones {
		c := &d.st.Clones[i]
		if s := d.Clones[c.Name]; s.server != "" {
			c.Server, c.Class = s.server, s.class
		}
	}
}

// stale are the databases that the content no longer has.
func (d *decision) stale(ps []part) []v1alpha1.DatabaseClone {
	if d.Content == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(d.st.Clones), func(c v1alpha1.DatabaseClone) bool {
		return slices.ContainsFunc(ps, func(p part) bool { return p.cloned == c.Name })
	})
}

// drop has databases taken away, forgets those that are gone, and says what holds the others up.
func (d *decision) drop(databases []v1alpha1.DatabaseClone) (step Step, holds []string) {
	var due []v1alpha1.DatabaseClone
	for _, c := range slices.Clone(databases) {
		s := d.Clones[c.Name]
		if s.dropped || c.Server == "" { // nothing of it was ever made
			d.st.Clones = slices.DeleteFunc(d.st.Clones, func(have v1alpha1.DatabaseClone) bool { return have.Name == c.Name })
			continue
		}
		if s.drop && s.err != nil {
			holds = append(holds, fmt.Sprintf("database %s on %s: %s", c.Name, c.Server, saysOf(s.err)))
		}
		if d.now(c.Name, true) {
			due = append(due, c)
		}
	}
	if len(due) == 0 {
		return nil, holds
	}
	return Drop{due}, holds
}
