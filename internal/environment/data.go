package environment

import (
	"cmp"
	"slices"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// annotationData on a Job that is a step of a component's data says what it was done to.
const annotationData = "dayfly.dev/data"

// stepOf is the step of its component's data that an object is; "" if it is none.
func stepOf(u *unstructured.Unstructured) string {
	if u == nil || u.GetKind() != "Job" {
		return ""
	}
	return u.GetAnnotations()[source.StepKey]
}

// follow has the steps of a component's data follow the data: they are done anew where the data are others, and migrations where
// the revision is another. What is to be applied says so.
func (p *part) follow(o *Observed) {
	if !slices.ContainsFunc(p.members, func(m member) bool { return m.step != "" }) {
		return
	}
	kept := p.kept(o)
	for i := range p.members {
		m := &p.members[i]
		if m.step == "" {
			continue
		}
		if m.rests = o.Env.Spec.Asleep(); m.rests || kept == "" {
			continue
		}
		m.of = kept + p.before(o, *m)
		if m.step == source.Migrate {
			m.of += "-" + awake(&o.Env.Spec)
		}
		if m.object != nil {
			m.object = m.object.DeepCopy() // it is others' too
			annotations := m.object.GetAnnotations()
			annotations[annotationData] = m.of
			m.object.SetAnnotations(annotations)
		}
	}
}

// before identifies the Jobs of the steps that come before one: when data are sown anew, what was done to the former is no more.
func (p *part) before(o *Observed, m member) (out string) {
	for _, step := range source.Steps[:slices.Index(source.Steps, m.step)] {
		for _, other := range p.members {
			if other.step != step {
				continue
			}
			uid := "none"
			if live := o.Live[other.key]; live != nil {
				uid = string(live.GetUID())
			}
			out += "-" + hash(uid)
		}
	}
	return out
}

// classOf is the class of what a component keeps. What was personal stays so in an environment, whatever is said of it later, unless it
// is masked there.
func classOf(o *Observed, c source.Component) string {
	masks := slices.ContainsFunc(c.Objects, func(u *unstructured.Unstructured) bool { return stepOf(u) == source.Mask })
	was := slices.ContainsFunc(o.Env.Status.Components, func(s v1alpha1.ComponentStatus) bool { return s.Name == c.Name && s.Data == source.Personal })
	if was && !masks {
		return source.Personal
	}
	return c.Data
}

// awake is the revision of an environment, whether it is asleep or not.
func awake(s *v1alpha1.EnvironmentSpec) string {
	s = s.DeepCopy()
	s.Replicas = nil
	return RevisionOf(s)
}

// kept identifies what a component keeps: its clone, the oldest claim of its pods, or the oldest pod where they have none. It is "" while the
// component is not ready, but for the steps themselves.
func (p *part) kept(o *Observed) string {
	var first *metav1.ObjectMeta
	older := func(m *metav1.ObjectMeta) {
		if first == nil || cmp.Or(m.CreationTimestamp.Compare(first.CreationTimestamp.Time), cmp.Compare(m.UID, first.UID)) < 0 {
			first = m
		}
	}
	var pods []corev1.Pod
	for _, m := range p.members {
		if m.step != "" {
			continue
		}
		if state, _ := judgeOne(o, m); state != v1alpha1.ComponentReady {
			return ""
		}
		pods = append(pods, podsOf(o, o.Live[m.key])...)
	}
	if p.cloned != "" {
		return hash(p.cloned)
	}
	for _, pod := range pods {
		for _, v := range pod.Spec.Volumes {
			if v.PersistentVolumeClaim == nil {
				continue
			}
			claim := o.Live[key{"", "PersistentVolumeClaim", v.PersistentVolumeClaim.ClaimName}]
			if claim == nil {
				return ""
			}
			older(&metav1.ObjectMeta{UID: claim.GetUID(), CreationTimestamp: claim.GetCreationTimestamp()})
		}
	}
	if first == nil {
		for _, pod := range pods {
			older(&pod.ObjectMeta)
		}
	}
	if first == nil {
		return ""
	}
	return hash(string(first.UID))
}

// doneTo says whether a step is done, or under way, to what it is to be done to. What is done once stays done, whatever has become
// of the file; what has failed is tried again if it is another.
func (m member) doneTo(live *unstructured.Unstructured) bool {
	if live.GetAnnotations()[annotationData] != m.of {
		return false
	}
	return m.object == nil || complete(live) || live.GetAnnotations()[annotationHash] == hashOf(m.object)
}

func complete(job *unstructured.Unstructured) bool {
	state, _ := readiness(job)
	return state == v1alpha1.ComponentReady
}

// due says whether a step's turn has come: what it is done to is there, and the steps before it are done.
func (p part) due(o *Observed, m member) bool {
	return m.of != "" && !slices.ContainsFunc(p.members, func(other member) bool {
		return slices.Index(source.Steps, other.step) < slices.Index(source.Steps, m.step) && other.step != "" &&
			(!applied(o, other) || !complete(o.Live[other.key]))
	})
}

// again is a Job that is to be made anew, since Kubernetes changes none: nil if it is not. A step that is under way when the
// environment falls asleep has failed once it wakes.
func again(o *Observed, m member) *unstructured.Unstructured {
	live := o.Live[m.key]
	if m.kind != "Job" || live == nil || live.GetDeletionTimestamp() != nil {
		return nil
	}
	switch {
	case m.rests && !complete(live), m.step != "" && m.of != "" && !m.doneTo(live),
		m.step == "" && m.object != nil && live.GetAnnotations()[annotationHash] != hashOf(m.object):
		return live
	}
	return nil
}

// keeps says whether the data of some component came by steps: whether they are still there is then to be looked at.
func keeps(o *Observed) bool {
	return slices.ContainsFunc(o.Env.Status.Components, func(c v1alpha1.ComponentStatus) bool { return c.Data != "" }) ||
		slices.ContainsFunc(o.Content, func(c source.Component) bool { return c.Data != "" })
}

// public says whether the environment's addresses are open to everybody.
func (d *decision) public() {
	name := exposed(d.Observed, parts(d.Observed))
	d.st.Public = d.Env.Spec.Public && name == ""
	if at := slices.IndexFunc(d.st.Components, func(c v1alpha1.ComponentStatus) bool { return c.Name == name }); d.Env.Spec.Public && name != "" && at >= 0 && d.st.Components[at].Message == "" {
		d.st.Components[at].Message = "keeps personal data: the environment is not made public"
	}
}

// exposed is a component that keeps what is personal, or what is not known to be masked yet; "" if there is none.
func exposed(o *Observed, ps []part) string {
	for _, p := range ps {
		if p.personal(o) {
			return p.name
		}
	}
	return ""
}

// personal says whether what a component keeps is personal, as far as is known: what is to be masked is, until it was.
func (p part) personal(o *Observed) bool {
	mask := slices.IndexFunc(p.members, func(m member) bool { return m.step == source.Mask })
	if p.data == source.Personal || mask < 0 {
		return p.data == source.Personal
	}
	m := p.members[mask]
	live := o.Live[m.key]
	return live == nil || !complete(live) || m.of != "" && !m.doneTo(live)
}
