package cli

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/deploy"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// verdict is what a check comes to.
type verdict string

const (
	fine    verdict = "ok"
	caution verdict = "warning" // works, but should be known
	broken  verdict = "problem"
	unknown verdict = "unseen" // could not be looked at
)

// finding is one verdict, in words, with what to do about it.
type finding struct {
	Check   string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Says    string  `json:"says"`
	Fix     string  `json:"fix,omitempty"`

	code usererr.Code // of the exit, if it is broken
	mend mending      // what doctor --fix does about it; "": nothing
}

// mending is one thing that doctor --fix can do.
type mending string

const (
	mendScale   mending = "scale"   // give dayfly's deployments their replicas back
	mendExpired mending = "expired" // close sessions whose lease is over
	mendStrays  mending = "strays"  // delete objects of dayfly's that belong to no alteration
	mendKilled  mending = "killed"  // end what killed processes of this laptop left
	mendFiles   mending = "files"   // remove files of this laptop that belong to no session
)

// Times within which things mend themselves.
const (
	soon      = 30 * time.Second // the controller acts upon what it sees
	leaseTime = 30 * time.Second // a leader renews its lease much more often
)

// diagnose makes the checks. It is pure: every rule of doctor is here.
func diagnose(in *inspection) []finding {
	out := []finding{checkCluster(in)}
	if in.unreachable == nil {
		out = append(out, checkInstalled(in))
		if !in.missing {
			out = append(out, checkDefinitions(in), checkController(in))
			out = append(out, checkGateway(in)...)
			out = append(out, checkRouters(in)...)
			out = append(out, checkRights(in), checkSessions(in), checkLeases(in), checkAlterations(in), checkStrays(in))
		}
		out = append(out, checkClock(in))
	}
	return append(out, checkProxy(in), checkKilled(in), checkFiles(in))
}

func ok(check, format string, args ...any) finding {
	return finding{Check: check, Verdict: fine, Says: fmt.Sprintf(format, args...)}
}

func warn(check, fix, format string, args ...any) finding {
	return finding{Check: check, Verdict: caution, Says: fmt.Sprintf(format, args...), Fix: fix}
}

func bad(check, fix, format string, args ...any) finding {
	return finding{Check: check, Verdict: broken, Says: fmt.Sprintf(format, args...), Fix: fix, code: usererr.Failed}
}

// blind is the finding where something could not be looked at; what names it in in.unseen.
func blind(in *inspection, check string, whats ...string) (finding, bool) {
	for _, w := range whats {
		if why, ok := in.unseen[w]; ok {
			return finding{Check: check, Verdict: unknown, Says: w + ": " + why}, true
		}
	}
	return finding{}, false
}

func (f finding) exits(code usererr.Code) finding { f.code = code; return f }
func (f finding) mended(by mending) finding       { f.mend = by; return f }

func checkCluster(in *inspection) finding {
	if err := in.unreachable; err != nil {
		return bad("cluster", cmp.Or(usererr.FixOf(err), "check the network between here and "+in.server), "%s", err).exits(max(usererr.CodeOf(err), usererr.Failed))
	}
	return ok("cluster", "Kubernetes %s answers %s in %s", cmp.Or(in.kubernetes, "of unknown version"), in.me.Username, in.took.Round(time.Millisecond))
}

// versions are those that dayfly's parts in the cluster say they have.
func (in *inspection) versions() []string {
	found := map[string]bool{}
	for i := range in.deployments {
		if v := in.deployments[i].Labels["app.kubernetes.io/version"]; v != "" {
			found[v] = true
		}
	}
	if len(found) == 0 {
		for i := range in.sessions {
			if v := in.sessions[i].Status.Version; v != "" {
				found[v] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func checkInstalled(in *inspection) finding {
	const upgrade = "upgrade the older side: this laptop's dayfly, or the cluster's with: dayfly install"
	if in.missing {
		return bad("installed", "ask whoever runs the cluster, or run: dayfly install", "dayfly is not installed in this cluster").exits(usererr.NotInstalled)
	}
	vs := in.versions()
	if len(vs) == 0 {
		return finding{Check: "installed", Verdict: unknown, Says: "its version: " + cmp.Or(in.unseen["dayfly's deployments"], "nothing says it")}
	}
	for _, v := range vs {
		if minor(v) != minor(in.cliVer) {
			return bad("installed", upgrade, "dayfly is %s here and %s in the cluster", in.cliVer, strings.Join(vs, ", ")).exits(usererr.NotInstalled)
		}
	}
	if len(vs) > 1 || vs[0] != in.cliVer {
		return warn("installed", upgrade, "dayfly is %s here and %s in the cluster", in.cliVer, strings.Join(vs, ", "))
	}
	return ok("installed", "dayfly %s, here and in the cluster", in.cliVer)
}

func checkDefinitions(in *inspection) finding {
	if f, yes := blind(in, "kinds", "definitions"); yes {
		return f
	}
	if len(in.definitions) > 0 {
		var names []string
		for _, n := range slices.Sorted(maps.Keys(in.definitions)) {
			names = append(names, n+" at "+in.definitions[n])
		}
		return warn("kinds", "dayfly install", "not as this version defines them: %s", strings.Join(names, ", "))
	}
	return ok("kinds", "sessions and alterations are defined as this version needs them")
}

func checkController(in *inspection) finding {
	if f, yes := blind(in, "controller", "dayfly's deployments", "the leader's lease"); yes {
		return f
	}
	const see = "see: kubectl -n " + deploy.Namespace + " get pods; kubectl -n " + deploy.Namespace + " logs deploy/controller"
	for i := range in.deployments {
		d := &in.deployments[i]
		if component(d.Labels) != "controller" {
			continue
		}
		want, ready := replicas(d), d.Status.ReadyReplicas
		switch leader := in.leader(); {
		case want == 0:
			return bad("controller", "kubectl -n "+deploy.Namespace+" scale deploy/controller --replicas 2", "it is scaled to 0: nothing is armed or restored").mended(mendScale)
		case ready == 0:
			return bad("controller", see, "none of %d replicas is ready: nothing is armed or restored", want)
		case leader == "":
			return bad("controller", see, "%d of %d replicas are ready, none leads", ready, want)
		case ready < want:
			return warn("controller", see, "%d of %d replicas are ready; %s leads", ready, want, leader)
		default:
			return ok("controller", "%d of %d replicas are ready; %s leads", ready, want, leader)
		}
	}
	return bad("controller", "dayfly install", "its deployment is not there")
}

// checkGateway says nothing where dayfly was installed without a domain.
func checkGateway(in *inspection) []finding {
	i := slices.IndexFunc(in.deployments, func(d appsv1.Deployment) bool { return component(d.Labels) == "gateway" })
	if i < 0 {
		return nil
	}
	const see = "see: kubectl -n " + deploy.Namespace + " get pods; kubectl -n " + deploy.Namespace + " logs deploy/gateway"
	want, ready := replicas(&in.deployments[i]), in.deployments[i].Status.ReadyReplicas
	switch {
	case want == 0:
		return []finding{bad("gateway", "kubectl -n "+deploy.Namespace+" scale deploy/gateway --replicas 2", "it is scaled to 0: no environment answers at its address").mended(mendScale)}
	case ready == 0:
		return []finding{bad("gateway", see, "none of %d replicas is ready: no environment answers at its address", want)}
	case ready < want:
		return []finding{warn("gateway", see, "%d of %d replicas are ready", ready, want)}
	}
	return []finding{ok("gateway", "%d of %d replicas are ready", ready, want)}
}

func replicas(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// leader is the pod that leads, or "".
func (in *inspection) leader() string {
	if in.lease == nil || in.lease.Spec.HolderIdentity == nil || in.lease.Spec.RenewTime == nil {
		return ""
	}
	if in.now.Add(in.skew).Sub(in.lease.Spec.RenewTime.Time) > leaseTime {
		return ""
	}
	name, _, _ := strings.Cut(*in.lease.Spec.HolderIdentity, "_")
	return name
}

func checkRouters(in *inspection) []finding {
	return []finding{checkRoutersReady(in), checkRoutersSpread(in), checkWays(in)}
}

func checkRoutersReady(in *inspection) finding {
	if f, yes := blind(in, "routers", "dayfly's deployments"); yes {
		return f
	}
	var off, down, up []string
	for i := range in.deployments {
		d := &in.deployments[i]
		switch {
		case component(d.Labels) != "router":
		case replicas(d) == 0:
			off = append(off, d.Name)
		case d.Status.ReadyReplicas == 0:
			down = append(down, d.Name)
		default:
			up = append(up, d.Name)
		}
	}
	see := "see: kubectl -n " + deploy.Namespace + " get pods -l app.kubernetes.io/component=router"
	switch {
	case len(off) > 0:
		return bad("routers", "kubectl -n "+deploy.Namespace+" scale --replicas 1 deploy "+strings.Join(off, " "), "scaled to 0: %s; ready: %s",
			strings.Join(off, ", "), cmp.Or(strings.Join(up, ", "), "none")).mended(mendScale)
	case len(up) == 0 && len(down) == 0:
		return bad("routers", "dayfly install", "there are none")
	case len(down) > 0:
		return bad("routers", see, "not ready: %s; ready: %s", strings.Join(down, ", "), cmp.Or(strings.Join(up, ", "), "none"))
	}
	return ok("routers", "all %d are ready: %s", len(up), strings.Join(up, ", "))
}

// nodes are where the routers' pods are.
func (in *inspection) nodes() map[string][]string {
	out := map[string][]string{}
	for i := range in.pods {
		p := &in.pods[i]
		if component(p.Labels) == "router" && p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp.IsZero() {
			out[p.Spec.NodeName] = append(out[p.Spec.NodeName], p.Labels["dayfly.dev/replica"])
		}
	}
	return out
}

func checkRoutersSpread(in *inspection) finding {
	if f, yes := blind(in, "spread", "dayfly's pods"); yes {
		return f
	}
	nodes, n := in.nodes(), 0
	var list []string
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		slices.Sort(nodes[node])
		n += len(nodes[node])
		list = append(list, strings.Join(nodes[node], "+")+" on "+node)
	}
	switch {
	case n < 2:
		return warn("spread", "run two or more routers: dayfly install --routers 2", "%d router runs: if it is lost, captured services wait for it", n)
	case len(nodes) == 1:
		return warn("spread", "if the cluster has other nodes: kubectl -n "+deploy.Namespace+" rollout restart deploy -l app.kubernetes.io/component=router",
			"all routers are on one node: %s", strings.Join(list, ", "))
	}
	return ok("spread", "%s", strings.Join(list, ", "))
}

func checkWays(in *inspection) finding {
	var open, shut []string
	code, fix := usererr.Failed, ""
	for _, w := range in.ways {
		if w.err == nil {
			open = append(open, fmt.Sprintf("%s in %s", w.router, w.took.Round(time.Millisecond)))
			continue
		}
		shut = append(shut, fmt.Sprintf("%s: %s", w.router, w.err))
		code, fix = usererr.CodeOf(w.err), cmp.Or(usererr.FixOf(w.err), "see the checks of routers and proxy; a proxy before the API server must let WebSockets through")
	}
	switch {
	case len(shut) > 0 && len(open) == 0:
		return bad("way in", fix, "no router can be reached through the API server: %s", strings.Join(shut, "; ")).exits(code)
	case len(shut) > 0:
		return bad("way in", fix, "not every router can be reached through the API server: %s; reached: %s", strings.Join(shut, "; "), strings.Join(open, ", ")).exits(code)
	}
	return ok("way in", "WebSocket through the API server to %s", strings.Join(open, ", "))
}

func checkRights(in *inspection) finding {
	if f, yes := blind(in, "rights", "your rights"); yes {
		return f
	}
	var lacks, minors []string
	ns := ""
	for _, r := range in.rights {
		if r.resource == "sessions.dayfly.dev" {
			ns = r.namespace
		}
		text := r.verb + " " + r.resource
		switch {
		case r.allowed:
		case r.needed:
			lacks = append(lacks, text)
		default:
			minors = append(minors, text)
		}
	}
	switch {
	case len(lacks) > 0:
		return warn("rights", "to intercept there, ask an admin of the namespace: "+bindingFor(in.me.Username, ns),
			"%s may not, in namespace %s: %s", in.me.Username, ns, strings.Join(append(lacks, minors...), ", "))
	case len(minors) > 0:
		return ok("rights", "%s may intercept in namespace %s, but not: %s", in.me.Username, ns, strings.Join(minors, ", "))
	}
	return ok("rights", "%s may intercept in namespace %s", in.me.Username, ns)
}

func bindingFor(user, namespace string) string {
	return fmt.Sprintf("kubectl create rolebinding dayfly-developer-USER --clusterrole dayfly-developer --user %s -n %s", user, namespace)
}

// checkSessions looks at sessions that wait for somebody.
func checkSessions(in *inspection) finding {
	if f, yes := blind(in, "sessions", "sessions"); yes {
		return f
	}
	var stuck, away, refused []string
	for i := range in.sessions {
		s := &in.sessions[i]
		name := fmt.Sprintf("%s/%s of %s", s.Namespace, s.Name, s.Spec.Owner.Username)
		v := view(s)
		switch {
		case !s.DeletionTimestamp.IsZero():
			if since := in.now.Add(in.skew).Sub(s.DeletionTimestamp.Time); since > soon+s.Spec.Drain.Duration {
				stuck = append(stuck, fmt.Sprintf("%s (closing for %s)", name, duration.HumanDuration(since)))
			}
		case v.State == "Parked" || !s.Status.Connected && len(s.Spec.Intercepts) > 0 && s.Status.ExpiresAt != nil:
			away = append(away, fmt.Sprintf("%s (until %s)", name, s.Status.ExpiresAt.Local().Format("15:04 Jan 2")))
		case slices.ContainsFunc(v.Intercepts, func(i interceptView) bool { return i.State == string(v1alpha1.StateRefused) }):
			refused = append(refused, name+": "+v.Message)
		}
	}
	switch {
	case len(stuck) > 0:
		return bad("sessions", "dayfly's controller restores them: see its check; without it: dayfly uninstall --force", "not restored yet: %s", strings.Join(stuck, ", "))
	case len(refused) > 0:
		return warn("sessions", "their owners, or an admin of the namespace, can end them: dayfly session close NAME -n NAMESPACE", "refused: %s", strings.Join(refused, "; "))
	case len(away) > 0:
		return warn("sessions", "the originals answer meanwhile; to end one now: dayfly session close NAME -n NAMESPACE", "their laptops are away: %s", strings.Join(away, ", "))
	}
	return ok("sessions", "%s, none waits for anybody", plural(len(in.sessions), "session"))
}

// expired says whether a session's lease is over and the controller should have closed it.
func (in *inspection) expired(s *v1alpha1.Session) bool {
	return s.DeletionTimestamp.IsZero() && !s.Status.Connected && s.Status.ExpiresAt != nil && in.now.Add(in.skew).Sub(s.Status.ExpiresAt.Time) > soon
}

func checkLeases(in *inspection) finding {
	if f, yes := blind(in, "leases", "sessions"); yes {
		return f
	}
	var over []string
	for i := range in.sessions {
		if s := &in.sessions[i]; in.expired(s) {
			over = append(over, fmt.Sprintf("%s/%s of %s", s.Namespace, s.Name, s.Spec.Owner.Username))
		}
	}
	if len(over) > 0 {
		return bad("leases", "dayfly doctor --fix closes those that you may close; the controller closes the others once it leads",
			"over, but not closed: %s", strings.Join(over, ", ")).mended(mendExpired)
	}
	return ok("leases", "none is over")
}

// checkAlterations looks for what is altered on behalf of no session.
func checkAlterations(in *inspection) finding {
	if f, yes := blind(in, "alterations", "alterations", "sessions"); yes {
		return f
	}
	var left []string
	for i := range in.alterations {
		if a := &in.alterations[i]; !in.wanted(a) && in.old(a) {
			left = append(left, fmt.Sprintf("service %s/%s", a.Namespace, a.Spec.Target.Name))
		}
	}
	if len(left) > 0 {
		return bad("alterations", "dayfly's controller restores them: see its check; without it: dayfly uninstall --force",
			"altered on behalf of no session: %s", strings.Join(left, ", "))
	}
	return ok("alterations", "%s, each on behalf of a session", plural(len(in.alterations), "altered service"))
}

func (in *inspection) wanted(a *v1alpha1.Alteration) bool {
	return slices.ContainsFunc(in.sessions, func(s v1alpha1.Session) bool {
		return s.Namespace == a.Namespace && slices.ContainsFunc(s.Spec.Intercepts, func(i v1alpha1.Intercept) bool { return i.Service == a.Spec.Target.Name })
	})
}

// old says whether the controller has had the time to see to an alteration, drains included.
func (in *inspection) old(a *v1alpha1.Alteration) bool {
	since := a.CreationTimestamp.Time
	for _, p := range a.Status.Ports {
		if p.DrainUntil != nil && p.DrainUntil.After(since) {
			since = p.DrainUntil.Time
		}
	}
	return in.now.Add(in.skew).Sub(since) > soon
}

// strays are objects of dayfly's that no alteration accounts for.
func (in *inspection) strays() []metav1.Object {
	own := map[string]bool{}
	for i := range in.alterations {
		a := &in.alterations[i]
		own[a.Namespace+"/"+a.Spec.Origin] = true
		own[a.Namespace+"/"+a.Spec.Target.Name] = true
	}
	var out []metav1.Object
	for i := range in.origins {
		if s := &in.origins[i]; isMade(s) && !own[s.Namespace+"/"+s.Name] && in.aged(s) {
			out = append(out, s)
		}
	}
	for i := range in.offers {
		if s := &in.offers[i]; isMade(s) && !own[s.Namespace+"/"+s.Labels["kubernetes.io/service-name"]] && in.aged(s) {
			out = append(out, s)
		}
	}
	return out
}

// isMade says whether dayfly made an object, and did not only leave its label on somebody's copy: then a Service owns it.
func isMade(o metav1.Object) bool {
	return o.GetNamespace() != deploy.Namespace && o.GetLabels()[v1alpha1.LabelManaged] == "dayfly" &&
		slices.ContainsFunc(o.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.APIVersion == "v1" && r.Kind == "Service" })
}

// aged leaves out what is younger than a restoration takes.
func (in *inspection) aged(o metav1.Object) bool {
	return in.now.Add(in.skew).Sub(o.GetCreationTimestamp().Time) > soon && o.GetDeletionTimestamp().IsZero()
}

func checkStrays(in *inspection) finding {
	if f, yes := blind(in, "strays", "origin services", "endpoint slices", "alterations"); yes {
		return f
	}
	if s := in.strays(); len(s) > 0 {
		var names []string
		for _, o := range s {
			names = append(names, kindOf(o)+" "+o.GetNamespace()+"/"+o.GetName())
		}
		return bad("strays", "dayfly doctor --fix deletes them", "objects that dayfly made and nothing accounts for: %s", strings.Join(names, ", ")).mended(mendStrays)
	}
	return ok("strays", "every service and endpoint slice that dayfly made belongs to an alteration")
}

func kindOf(o metav1.Object) string {
	if _, yes := o.(*corev1.Service); yes {
		return "service"
	}
	return "endpointslice"
}

// How far the clocks may be apart: certificates are valid from a while before they are made.
const clockNotice, clockTrouble = 5 * time.Second, time.Minute

func checkClock(in *inspection) finding {
	skew := in.skew.Round(time.Second)
	side := "ahead of"
	if skew > 0 {
		side = "behind"
	}
	switch d := skew.Abs(); {
	case d > clockTrouble:
		return bad("clock", "set this laptop's clock (timedatectl set-ntp true)", "it is %s %s the cluster's: certificates may not be valid here", d, side)
	case d > clockNotice:
		return warn("clock", "set this laptop's clock (timedatectl set-ntp true)", "it is %s %s the cluster's", d, side)
	}
	return ok("clock", "agrees with the cluster's")
}

func checkProxy(in *inspection) finding {
	if in.proxy == "" {
		return ok("proxy", "none between here and the API server")
	}
	return warn("proxy", "to go around it, add the API server's name to NO_PROXY", "the API server is reached through %s, which must let WebSockets through", in.proxy)
}

// killed are the intercepts of this laptop whose process is gone while their session lasts.
func (in *inspection) killed() (out []string) {
	for _, kept := range in.laptop.sessions {
		for i := range in.sessions {
			s := &in.sessions[i]
			if s.Namespace != kept.Namespace || s.Name != kept.Name || !sameKey(kept, s) || !s.DeletionTimestamp.IsZero() {
				continue
			}
			for _, ic := range s.Spec.Intercepts {
				if r := session.Route(ic); kept.known(r) && kept.serving(r) == nil {
					out = append(out, fmt.Sprintf("%s in session %s/%s", r, s.Namespace, s.Name))
				}
			}
		}
	}
	return out
}

func checkKilled(in *inspection) finding {
	if in.unreachable != nil {
		return finding{Check: "processes", Verdict: unknown, Says: "the cluster is not there to compare them with"}
	}
	if f, yes := blind(in, "processes", "sessions"); yes {
		return f
	}
	if dead := in.killed(); len(dead) > 0 {
		return bad("processes", "dayfly doctor --fix, or the next dayfly intercept or session list, ends what they left",
			"the process of this laptop that answered is gone: %s", strings.Join(dead, ", ")).mended(mendKilled)
	}
	n := 0
	for _, s := range in.laptop.sessions {
		for _, p := range s.Serving {
			if p.alive() {
				n++
			}
		}
	}
	return ok("processes", "%s on this laptop, as their sessions say", plural(n, "process"))
}

// staleSessions are those that this laptop keeps and the cluster no longer has. It is nil where that cannot be said.
func (in *inspection) staleSessions() (out []*laptopSession) {
	if _, hidden := in.unseen["sessions"]; hidden || in.unreachable != nil {
		return nil
	}
	for _, kept := range in.laptop.sessions {
		if in.namespace != "" && kept.Namespace != in.namespace || slices.ContainsFunc(kept.Serving, served.alive) {
			continue
		}
		if !slices.ContainsFunc(in.sessions, func(s v1alpha1.Session) bool {
			return s.Namespace == kept.Namespace && s.Name == kept.Name && sameKey(kept, &s)
		}) {
			out = append(out, kept)
		}
	}
	return out
}

func checkFiles(in *inspection) finding {
	if in.laptop.err != nil {
		return bad("files", "set XDG_STATE_HOME to a folder that you may read and write", "%s", in.laptop.err)
	}
	var names []string
	for _, p := range slices.Sorted(maps.Keys(in.laptop.unreadable)) {
		names = append(names, filepath.Base(p)+" cannot be read")
	}
	for _, s := range in.staleSessions() {
		names = append(names, filepath.Base(s.path)+" is of a session that is gone")
	}
	for _, p := range in.laptop.orphans {
		names = append(names, filepath.Base(p)+" belongs to no session")
	}
	if len(names) > 0 {
		return bad("files", "dayfly doctor --fix removes them", "in %s: %s", in.laptop.dir, strings.Join(names, ", ")).mended(mendFiles)
	}
	return ok("files", "%s kept in %s", plural(len(in.laptop.sessions), "session"), in.laptop.dir)
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += map[bool]string{true: "es", false: "s"}[strings.HasSuffix(noun, "s")]
	}
	return fmt.Sprintf("%d %s", n, noun)
}
