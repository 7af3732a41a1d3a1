package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Environment is a running instance of a Blueprint, in a namespace of its own, with an end date. Who may make one is an
// ordinary right in the namespace that the Environment itself is in, its home. Deleting it takes everything away.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas
// +kubebuilder:resource:categories=dayfly
// +kubebuilder:printcolumn:name="Owner",type=string,JSONPath=`.spec.owner.username`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Revision",type=string,JSONPath=`.status.revisions.ready`
// +kubebuilder:printcolumn:name="Lives in",type=string,JSONPath=`.status.namespace`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Until",type=string,JSONPath=`.status.expiresAt`
// +kubebuilder:printcolumn:name="Ends soon",type=string,JSONPath=`.status.conditions[?(@.type=="ExpiresSoon")].status`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="an environment's name has at most 40 characters: lower case letters, digits and '-'"
type Environment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   EnvironmentSpec   `json:"spec"`
	Status EnvironmentStatus `json:"status,omitempty"`
}

// EnvironmentList is a list of Environments.
//
// +kubebuilder:object:root=true
type EnvironmentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Environment `json:"items"`
}

// EnvironmentSpec is what the owner asks for.
//
// +kubebuilder:validation:XValidation:rule="has(self.blueprint) != has(self.source)",message="an environment is made from a blueprint or from a source: exactly one of them"
type EnvironmentSpec struct {
	// Owner is who made the environment, as the API server knows them; admission refuses any other value. The owner may look
	// into the environment's namespace: see its objects and logs, run commands in its pods, forward ports to them.
	//
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the owner of an environment does not change"
	Owner Owner `json:"owner"`

	// Blueprint names a Blueprint in the same namespace.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Blueprint string `json:"blueprint,omitempty"`

	// Source is where the controller fetches the folder from, which it keeps as a Blueprint. It does so when this changes or the
	// annotation dayfly.dev/refresh does, and at no other time: what has moved since is not followed.
	//
	// +optional
	Source *Source `json:"source,omitempty"`

	// Parameters are values by name, as the Blueprint's dayfly.yaml declares them; what is left out has its default. A chart
	// gets them as values.
	//
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Parameters *runtime.RawExtension `json:"parameters,omitempty"`

	// Components are what differs from the Blueprint in single components.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Components []ComponentSpec `json:"components,omitempty"`

	// Only these components are made, and those that they need; all, if there are none here.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	Only []string `json:"only,omitempty"`

	// DataSecrets are the Secrets in the same namespace that data of components may be cloned with, as dayfly.yaml says. Who names one,
	// or changes what an environment consists of that does, must be able to read it, and so must dayfly's controller, by a Role in
	// this namespace.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	DataSecrets []string `json:"dataSecrets,omitempty"`

	// Replicas of the environment: 1, or 0 for one that is asleep. That runs nothing: its workloads have no pods, its CronJobs are
	// suspended, and all else stays. kubectl scale changes it too; a request to one of its addresses makes it 1.
	//
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1
	Replicas *int32 `json:"replicas,omitempty"`

	// SleepAfter is how long after the last request to one of its addresses, or the last change, the environment falls asleep.
	// Without it, it does so only when it is told to.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('720h')",message="an environment falls asleep after 10s to 720h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	SleepAfter *metav1.Duration `json:"sleepAfter,omitempty"`

	// AwaitImages is how long components wait for images that are not in their registries yet, such as those that a pipeline still
	// builds, from when a revision is asked for. Without it, an image that is not there is a failure at once.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="images are waited for between 1s and 24h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	AwaitImages *metav1.Duration `json:"awaitImages,omitempty"`

	// Public addresses are open to everybody who can reach the gateway; otherwise it takes a share. An environment with data of
	// the class pii is not made public.
	//
	// +optional
	Public bool `json:"public,omitempty"`

	// Shares are the links that open the environment's addresses.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Shares []Share `json:"shares,omitempty"`

	// Lease ends the environment when its annotation dayfly.dev/renewed has not changed for that long: whoever needs it no longer
	// does, or is no more. Without one, only its TTL ends it.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('24h')",message="a lease is between 10s and 24h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	Lease *metav1.Duration `json:"lease,omitempty"`

	// TTL is how long the environment lives, from its creation or what ttlFrom says. To extend it is to raise this. Without it, that
	// of the EnvironmentPolicy holds, or 8h.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('720h')",message="an environment lives between 1m and 720h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	TTL metav1.Duration `json:"ttl,omitzero"`

	// TTLFrom is from when the TTL counts: the environment's Creation, which it is if nothing is said; its last Revision; or its last
	// Activity: a request to one of its addresses, a change, or its waking.
	//
	// +optional
	// +kubebuilder:validation:Enum=Creation;Revision;Activity
	TTLFrom TTLFrom `json:"ttlFrom,omitempty"`

	// Pinned environments neither end by their TTL nor fall asleep by themselves. An EnvironmentPolicy with a maxTTL heeds it only if
	// it allows that. A lease ends them all the same.
	//
	// +optional
	Pinned bool `json:"pinned,omitempty"`

	// Priority among the environments that wait for a place: higher ones first. An EnvironmentPolicy bounds it, at 0 unless it says
	// otherwise.
	//
	// +optional
	// +kubebuilder:validation:Minimum=-10
	// +kubebuilder:validation:Maximum=10
	Priority int32 `json:"priority,omitempty"`
}

// TTLFrom is from when a TTL counts.
type TTLFrom string

// The values of TTLFrom.
const (
	TTLFromCreation TTLFrom = "Creation"
	TTLFromRevision TTLFrom = "Revision"
	TTLFromActivity TTLFrom = "Activity"
)

// Asleep says whether the environment is to run nothing.
func (s *EnvironmentSpec) Asleep() bool { return s.Replicas != nil && *s.Replicas == 0 }

// Public says whether an environment's addresses take no share. Of what is asked for and what is granted, the stricter holds.
func (e *Environment) Public() bool { return e.Spec.Public && e.Status.Public }

// Source is a folder that is somewhere else.
//
// +kubebuilder:validation:XValidation:rule="has(self.git) != has(self.oci)",message="a source is in Git or an OCI artifact: exactly one of them"
type Source struct {
	// +optional
	Git *GitSource `json:"git,omitempty"`

	// +optional
	OCI *OCISource `json:"oci,omitempty"`
}

// GitSource is a folder in a Git repository.
type GitSource struct {
	// URL of the repository: https only, so that nobody is asked who cannot prove that the name is theirs.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^https://[^/@?#[:space:]]+/[^?#[:space:]]+$')",message="the URL of a Git source is https://HOST/PATH, without a user, a password, a query or a fragment: credentials are in the Secret that secretName names"
	URL string `json:"url"`

	// Ref is a branch, a tag, or the whole hash of a commit; the remote's default branch, if there is none.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[^-[:space:][:cntrl:]~^:?*\[\\][^[:space:][:cntrl:]~^:?*\[\\]*$`
	Ref string `json:"ref,omitempty"`

	SourceFolder `json:",inline"`
}

// OCISource is a folder in an artifact of an OCI registry: a layer that is a gzipped tar, as flux push artifact, helm push and
// oras push make it.
type OCISource struct {
	// Ref is REGISTRY/REPOSITORY:TAG, or …@sha256:DIGEST. The registry is asked by https only.
	//
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}|@sha256:[0-9a-f]{64})$')",message="the ref of an OCI source is REGISTRY/REPOSITORY with a tag or a digest, such as registry.example.com/team/shop:v1"
	Ref string `json:"ref"`

	SourceFolder `json:",inline"`
}

// SourceFolder is where in a source the folder is, and what opens the source.
type SourceFolder struct {
	// Path of the subfolder that is the root of the source; "" is all of it.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.split('/').all(p, p != '' && p != '.' && p != '..')",message="the path of a source is that of a folder in it: no '.', no '..', no '/' at its ends"
	Path string `json:"path,omitempty"`

	// SecretName is a Secret in the same namespace: username and password for Git, .dockerconfigjson for a registry, and ca.crt, if
	// the server's certificate is of no well-known authority. Who names it must be able to read it, and so must dayfly's controller,
	// by a Role in this namespace.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	SecretName string `json:"secretName,omitempty"`
}

// Folder is where in the source the folder is.
func (s *Source) Folder() SourceFolder {
	if s.Git != nil {
		return s.Git.SourceFolder
	}
	return s.OCI.SourceFolder
}

// Share lets everybody who has its token reach the environment's addresses, for a time. The token itself is nowhere in the cluster.
type Share struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`

	// Hash of the token: SHA-256, in hexadecimal.
	//
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	Hash string `json:"hash"`

	// Until when the share is good.
	Until metav1.Time `json:"until"`
}

// ComponentSpec is what differs in one component.
//
// +kubebuilder:validation:XValidation:rule="has(self.image) || has(self.replicas)",message="a component changes its image, its replicas, or both"
type ComponentSpec struct {
	// Name of the component.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`

	// Image that the component runs: a reference, or a tag or digest with its ':' or '@'.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[!-~]+$`
	Image string `json:"image,omitempty"`

	// Replicas of the component.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=50
	Replicas *int32 `json:"replicas,omitempty"`
}

// EnvironmentStatus is what the controller saw last.
type EnvironmentStatus struct {
	// ObservedGeneration is the generation of the spec that this status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready, Reconciling, Stalled, and ExpiresSoon while that is so.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Namespace in which the environment's objects are.
	//
	// +optional
	Namespace string `json:"namespace,omitempty"`

	// Source is what was found where the spec's source is, if it has one.
	//
	// +optional
	Source *SourceStatus `json:"source,omitempty"`

	// Revisions: which content is asked for, which is applied, and which is known to be what runs.
	//
	// +optional
	Revisions Revisions `json:"revisions,omitempty"`

	// History is what was ready, the newest first.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	History []PastRevision `json:"history,omitempty"`

	// RequestedAt is when the requested revision was first seen.
	//
	// +optional
	RequestedAt *metav1.Time `json:"requestedAt,omitempty"`

	// ChangedAt is when what the environment consists of was last changed.
	//
	// +optional
	ChangedAt *metav1.Time `json:"changedAt,omitempty"`

	// Policy is what the EnvironmentPolicy that holds says of the environment's life; absent where there is none.
	//
	// +optional
	Policy *HeldPolicy `json:"policy,omitempty"`

	// Admission is the environment's place among those that are awake, or in the line of those that wait.
	//
	// +optional
	Admission *Admission `json:"admission,omitempty"`

	// Cost of the environment up to now, if a policy has prices.
	//
	// +optional
	Cost *Cost `json:"cost,omitempty"`

	// ExpiresAt is when the environment ends by itself; absent if it does not.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// UnpinnedAt is when the environment was pinned last: its time counts from then at the earliest.
	//
	// +optional
	UnpinnedAt *metav1.Time `json:"unpinnedAt,omitempty"`

	// Renewed is what the annotation dayfly.dev/renewed said last, and RenewedAt when the controller saw that first.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Renewed string `json:"renewed,omitempty"`

	// +optional
	RenewedAt *metav1.Time `json:"renewedAt,omitempty"`

	// Replicas is 1 while the environment can be asked: from when it is ready until it falls asleep.
	//
	// +optional
	Replicas int32 `json:"replicas,omitempty"`

	// LastRequest is when one of the environment's addresses was asked last, to within half a minute. The gateway writes it.
	//
	// +optional
	LastRequest *metav1.Time `json:"lastRequest,omitempty"`

	// Public says that the addresses take no share: the spec asks for that, and no component keeps what is personal.
	//
	// +optional
	Public bool `json:"public,omitempty"`

	// Addresses at which the gateway answers for components.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Addresses []Address `json:"addresses,omitempty"`

	// Components, as they stand, in the order in which they can start.
	//
	// +optional
	// +listType=atomic
	Components []ComponentStatus `json:"components,omitempty"`

	// Inventory is every object that was applied and is not known to be gone.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	Inventory []InventoryItem `json:"inventory,omitempty"`

	// Clones are the databases on servers elsewhere that were made for components, or are about to be, and are not known to be gone.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Clones []DatabaseClone `json:"clones,omitempty"`

	// Blocked are the objects that hold up the end of the environment.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	Blocked []Blocker `json:"blocked,omitempty"`
}

// HeldPolicy is what a policy says of the life of an environment: those who see the environment may not be allowed to read the policy.
type HeldPolicy struct {
	Name string `json:"name"`

	// TTL that holds if the environment has none of its own.
	//
	// +optional
	TTL *metav1.Duration `json:"ttl,omitempty"`

	// MaxTTL ends the environment at the latest.
	//
	// +optional
	MaxTTL *metav1.Duration `json:"maxTTL,omitempty"`

	// NoPin is a policy that does not heed spec.pinned.
	//
	// +optional
	NoPin bool `json:"noPin,omitempty"`

	// SleepAfter that holds if the environment has none of its own.
	//
	// +optional
	SleepAfter *metav1.Duration `json:"sleepAfter,omitempty"`

	// SleepsByClock says whether the policy has a schedule.
	//
	// +optional
	SleepsByClock bool `json:"sleepsByClock,omitempty"`
}

// Admission is a place among the environments that are awake, or in the line of those that wait for one.
type Admission struct {
	// At is since when the environment has its place; it has none while it waits or sleeps.
	//
	// +optional
	At *metav1.Time `json:"at,omitempty"`

	// Since when it waits.
	//
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`

	// Position among those that wait for the same, from 1. Those far behind are told seldom.
	//
	// +optional
	Position int32 `json:"position,omitempty"`

	// Requests that count: CPU and memory of all that its workloads run, and the storage of its claims.
	//
	// +optional
	Requests Resources `json:"requests,omitempty"`

	// Revision that the requests are those of.
	//
	// +optional
	Revision string `json:"revision,omitempty"`
}

// Cost of an environment: amount up to at, and from then on perHour for every hour.
type Cost struct {
	Currency string      `json:"currency"`
	Amount   string      `json:"amount"`
	PerHour  string      `json:"perHour"`
	At       metav1.Time `json:"at"`
}

// SourceStatus is what was found where a source is.
type SourceStatus struct {
	// Refresh is what the annotation dayfly.dev/refresh said when the controller looked last.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Refresh string `json:"refresh,omitempty"`

	// For is a hash of what the rest was found for: a source, and a refresh.
	//
	// +optional
	For string `json:"for,omitempty"`

	// Commit that was fetched from Git; or Digest of the manifest of an OCI artifact.
	//
	// +optional
	Commit string `json:"commit,omitempty"`

	// +optional
	Digest string `json:"digest,omitempty"`

	// FetchedAt is when.
	//
	// +optional
	FetchedAt *metav1.Time `json:"fetchedAt,omitempty"`

	// Blueprint that the folder is kept in.
	//
	// +optional
	Blueprint string `json:"blueprint,omitempty"`
}

// Address is where a component is reached from outside the cluster, and where that leads.
type Address struct {
	Component string `json:"component"`

	// URL, such as https://storefront--pr-1--team.example.com.
	URL string `json:"url"`

	// Service and the name of its port; a Service with a single port may have none for it.
	Service string `json:"service"`

	// +optional
	Port string `json:"port,omitempty"`

	// Protocol that the component speaks, if it is not HTTP/1.1: h2c.
	//
	// +optional
	Protocol string `json:"protocol,omitempty"`
}

// SuffixAsleep ends the revision of an environment that is asleep.
const SuffixAsleep = "-asleep"

// Revisions are hashes of a Blueprint's digest with the parameters and all that differs in the components; one that is asleep ends
// in -asleep.
type Revisions struct {
	// Requested is what the spec asks for.
	//
	// +optional
	Requested string `json:"requested,omitempty"`

	// Applied is the revision of which every object is in the cluster; there is none while one takes another's place.
	//
	// +optional
	Applied string `json:"applied,omitempty"`

	// Ready is the last revision of which every component was ready, with no pod of an older one left.
	//
	// +optional
	Ready string `json:"ready,omitempty"`
}

// PastRevision is a revision that was ready, and what it consisted of.
type PastRevision struct {
	Revision  string      `json:"revision"`
	ReadyAt   metav1.Time `json:"readyAt"`
	Blueprint string      `json:"blueprint"`

	// Source that the Blueprint was made from, with the commit or the digest as its ref.
	//
	// +optional
	Source *Source `json:"source,omitempty"`

	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Parameters *runtime.RawExtension `json:"parameters,omitempty"`

	// +optional
	// +listType=atomic
	Components []ComponentSpec `json:"components,omitempty"`

	// +optional
	// +listType=atomic
	Only []string `json:"only,omitempty"`
}

// ComponentState is where a component is on its way.
type ComponentState string

const (
	// ComponentWaiting is a component that needs another one first.
	ComponentWaiting ComponentState = "Waiting"
	// ComponentStarting is a component whose objects are applied and not ready yet.
	ComponentStarting ComponentState = "Starting"
	// ComponentFailing is a component that is not ready for a reason that seldom goes by itself; the message says which.
	ComponentFailing ComponentState = "Failing"
	// ComponentReady is a component all of whose objects are ready.
	ComponentReady ComponentState = "Ready"
	// ComponentAsleep is a component that runs nothing, as it is to be.
	ComponentAsleep ComponentState = "Asleep"
)

// ComponentStatus is one component, as it stands. The one without a name holds what belongs to several or to none.
type ComponentStatus struct {
	// +optional
	Name string `json:"name,omitempty"`

	// +kubebuilder:validation:Enum=Waiting;Starting;Failing;Ready;Asleep
	State ComponentState `json:"state"`

	// Message says what it waits for, or which object fails and why.
	//
	// +optional
	Message string `json:"message,omitempty"`

	// Needs are the components that must be ready before this one starts.
	//
	// +optional
	// +listType=atomic
	Needs []string `json:"needs,omitempty"`

	// Data is the class of what the component keeps, as dayfly.yaml says: synthetic, masked, or pii.
	//
	// +optional
	Data string `json:"data,omitempty"`
}

// InventoryItem is one applied object in the environment's namespace.
type InventoryItem struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`

	// +optional
	Component string `json:"component,omitempty"`

	// Fields is a hash of the fields that were applied, by which a change by hand is noticed.
	//
	// +optional
	Fields string `json:"fields,omitempty"`
}

// DatabaseClone is a database that is a copy of another one on its server. It is written down here before it is made, and taken out
// when it is seen to be gone.
type DatabaseClone struct {
	// Name of the database, and of the login that owns it.
	Name string `json:"name"`

	Component string `json:"component"`

	// Of which database it is a copy.
	Of string `json:"of"`

	// SecretName is the Secret in the environment's home that opens the server.
	SecretName string `json:"secretName"`

	// Server is the host and the port, once it has let dayfly in: before that nothing is made.
	//
	// +optional
	Server string `json:"server,omitempty"`

	// Class of what is in it, as the Secret says: synthetic, masked, or pii; likewise.
	//
	// +optional
	Class string `json:"class,omitempty"`
}

// Blocker is an object that is asked to end and does not.
type Blocker struct {
	// Object as kind/name, or what is known of it.
	Object string `json:"object"`

	// Finalizers that it waits for.
	//
	// +optional
	// +listType=atomic
	Finalizers []string `json:"finalizers,omitempty"`
}
