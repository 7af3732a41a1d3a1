package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EnvironmentPolicy says what environments of some homes may take, how many run at once, and how long they live. One holds for a
// home at a time; where none does, or it says nothing, dayfly's own defaults hold. To write one is to rule over the environments of all.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=dayfly
// +kubebuilder:printcolumn:name="Priority",type=integer,JSONPath=`.spec.priority`
// +kubebuilder:printcolumn:name="Homes",type=string,JSONPath=`.spec.homes.names`
// +kubebuilder:printcolumn:name="Awake",type=integer,JSONPath=`.spec.limits.awake`
// +kubebuilder:printcolumn:name="Longest",type=string,JSONPath=`.spec.lifetime.maxTTL`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type EnvironmentPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec EnvironmentPolicySpec `json:"spec"`
}

// EnvironmentPolicyList is a list of EnvironmentPolicies.
//
// +kubebuilder:object:root=true
type EnvironmentPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []EnvironmentPolicy `json:"items"`
}

// EnvironmentPolicySpec is what holds, and where.
type EnvironmentPolicySpec struct {
	// Priority among the policies that select a home: the highest holds. Of equals it is one that names the home, then one that
	// selects it by labels, then one for all homes; then the first by name.
	//
	// +optional
	// +kubebuilder:validation:Minimum=-1000
	// +kubebuilder:validation:Maximum=1000
	Priority int32 `json:"priority,omitempty"`

	// Homes for which the policy holds; every namespace, if there are none here.
	//
	// +optional
	Homes *PolicyHomes `json:"homes,omitempty"`

	// Guards of the environments' namespaces. A change reaches the environments that are there, but not pods that run already.
	//
	// +optional
	Guards *PolicyGuards `json:"guards,omitempty"`

	// Limits on what is awake at once. An environment that would exceed one waits for its turn, and nothing is made for it meanwhile.
	// Nobody is sent to sleep when a limit is lowered.
	//
	// +optional
	Limits *PolicyLimits `json:"limits,omitempty"`

	// Lifetime: when environments end, and when they sleep.
	//
	// +optional
	Lifetime *PolicyLifetime `json:"lifetime,omitempty"`

	// Prices by which status.cost of an environment is reckoned.
	//
	// +optional
	Prices *PolicyPrices `json:"prices,omitempty"`
}

// PolicyHomes are namespaces: those of a name, and those that have all of some labels.
//
// +kubebuilder:validation:XValidation:rule="has(self.names) || has(self.labels)",message="homes are selected by names, labels, or both"
type PolicyHomes struct {
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	Names []string `json:"names,omitempty"`

	// Labels of the namespace, all of which it must have.
	//
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	Labels map[string]string `json:"labels,omitempty"`
}

// PolicyGuards are what stands in an environment's namespace before anything else can be there.
type PolicyGuards struct {
	// Quota of one environment: each entry takes the place of that of dayfly's own quota, the others stay. See the status of a
	// ResourceQuota for the names, such as requests.cpu, pods or requests.storage.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="!('services.loadbalancers' in self) && !('services.nodeports' in self)",message="environments have no load balancers and node ports: their addresses are the gateway's"
	Quota Resources `json:"quota,omitempty"`

	// Defaults of a container that says nothing: each entry takes the place of dayfly's own.
	//
	// +optional
	Defaults *ContainerDefaults `json:"defaults,omitempty"`

	// PodSecurity is the level of Pod Security that is enforced: baseline, or restricted.
	//
	// +optional
	// +kubebuilder:validation:Enum=baseline;restricted
	PodSecurity string `json:"podSecurity,omitempty"`

	// Egress is what pods of an environment reach beside each other and the cluster's DNS.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Egress []EgressRule `json:"egress,omitempty"`
}

// Resources are quantities by the names that Kubernetes has for them.
type Resources map[string]resource.Quantity

// ContainerDefaults are what a container asks for, and is held to, that says nothing of it.
type ContainerDefaults struct {
	// +optional
	// +kubebuilder:validation:MaxProperties=8
	Requests Resources `json:"requests,omitempty"`

	// +optional
	// +kubebuilder:validation:MaxProperties=8
	Limits Resources `json:"limits,omitempty"`
}

// EgressRule lets pods of environments reach addresses, or the pods of namespaces.
//
// +kubebuilder:validation:XValidation:rule="has(self.cidr) != has(self.namespaces)",message="egress leads to a cidr or to namespaces"
// +kubebuilder:validation:XValidation:rule="!has(self.except) || has(self.cidr)",message="except takes addresses out of a cidr"
type EgressRule struct {
	// CIDR, such as 10.1.0.0/16. Addresses of pods are better named by their namespaces: not every network compares theirs with CIDRs.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self) && cidr(self) == cidr(self).masked()",message="write a network, such as 10.1.0.0/16"
	CIDR string `json:"cidr,omitempty"`

	// Except are parts of the CIDR that stay closed.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="self.all(c, isCIDR(c))",message="write networks, such as 10.1.2.0/24"
	Except []string `json:"except,omitempty"`

	// Namespaces that have all of these labels; kubernetes.io/metadata.name is the name of one.
	//
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	Namespaces map[string]string `json:"namespaces,omitempty"`

	// Ports, of the pods themselves and not of their Services; all, if there are none here.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Ports []EgressPort `json:"ports,omitempty"`
}

// EgressPort is a port.
type EgressPort struct {
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`

	// +optional
	// +kubebuilder:default=TCP
	// +kubebuilder:validation:Enum=TCP;UDP
	Protocol string `json:"protocol,omitempty"`
}

// PolicyLimits are on what is awake at once: from when an environment's turn has come until it is asleep or gone.
type PolicyLimits struct {
	// AwakePerOwner bounds the environments of one owner, in all homes of this policy.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	AwakePerOwner *int32 `json:"awakePerOwner,omitempty"`

	// AwakePerHome bounds the environments of each home.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	AwakePerHome *int32 `json:"awakePerHome,omitempty"`

	// Awake bounds the environments of all homes of this policy together.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Awake *int32 `json:"awake,omitempty"`

	// CPU that the environments of all homes of this policy may request together: what the containers of their workloads ask for,
	// times replicas; a DaemonSet counts once.
	//
	// +optional
	CPU *resource.Quantity `json:"cpu,omitempty"`

	// Memory, likewise.
	//
	// +optional
	Memory *resource.Quantity `json:"memory,omitempty"`

	// MaxPriority bounds spec.priority of environments: what is higher counts as this. Without it nobody goes before others, but
	// whoever likes may stand back.
	//
	// +optional
	// +kubebuilder:validation:Minimum=-10
	// +kubebuilder:validation:Maximum=10
	MaxPriority int32 `json:"maxPriority,omitempty"`
}

// PolicyLifetime says when environments end, and when they sleep.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ttl) || !has(self.maxTTL) || duration(self.ttl) <= duration(self.maxTTL)",message="ttl is no longer than maxTTL"
type PolicyLifetime struct {
	// TTL of environments that do not say how long they live.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('720h')",message="an environment lives between 1m and 720h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	TTL *metav1.Duration `json:"ttl,omitempty"`

	// MaxTTL ends every environment at the latest, from its creation, whatever it asks for.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('8760h')",message="maxTTL is between 1m and 8760h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	MaxTTL *metav1.Duration `json:"maxTTL,omitempty"`

	// AllowPin lets environments be pinned though there is a maxTTL, which then does not end them. Without a maxTTL they may be.
	//
	// +optional
	AllowPin bool `json:"allowPin,omitempty"`

	// WarnBefore is how long before its end an environment is said to end soon. Without it: 15m, and no more than a quarter of its life.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('720h')",message="warnBefore is between 1m and 720h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	WarnBefore *metav1.Duration `json:"warnBefore,omitempty"`

	// SleepAfter of environments that do not say when they fall asleep.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('720h')",message="an environment falls asleep after 10s to 720h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	SleepAfter *metav1.Duration `json:"sleepAfter,omitempty"`

	// Sleep is when environments fall asleep by the clock.
	//
	// +optional
	Sleep *SleepSchedule `json:"sleep,omitempty"`
}

// SleepSchedule are times in which what nobody uses sleeps. When one begins, each environment that is awake falls asleep as soon as
// nobody has asked for 5 minutes. Who wakes it meanwhile has it until it falls asleep otherwise, or the next window begins.
type SleepSchedule struct {
	// TimeZone, such as Europe/Berlin.
	//
	// +optional
	// +kubebuilder:default=UTC
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="timestamp('2026-01-01T12:00:00Z').getHours(self) >= 0",message="write a time zone, such as Europe/Berlin"
	TimeZone string `json:"timeZone,omitempty"`

	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Windows []SleepWindow `json:"windows"`
}

// Weekday is the short name of a day.
//
// +kubebuilder:validation:Enum=Mon;Tue;Wed;Thu;Fri;Sat;Sun
type Weekday string

// SleepWindow is a time of some days.
type SleepWindow struct {
	// Days on which it begins; every day, if there are none here.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=7
	Days []Weekday `json:"days,omitempty"`

	// From this hour and minute, such as 20:00.
	//
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]$`
	From string `json:"from"`

	// To, on the next day if it is no later than from: 00:00 to 00:00 is a whole day.
	//
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]$`
	To string `json:"to"`
}

// PolicyPrices are what environments are said to cost: what they request, whether they use it or not.
type PolicyPrices struct {
	// Currency, such as EUR.
	//
	// +kubebuilder:validation:Pattern=`^[A-Z]{3}$`
	Currency string `json:"currency"`

	// CPUHour is the price of one CPU for an hour in which the environment is awake.
	//
	// +optional
	CPUHour Price `json:"cpuHour,omitempty"`

	// MemoryGiBHour is that of one GiB of memory, likewise.
	//
	// +optional
	MemoryGiBHour Price `json:"memoryGiBHour,omitempty"`

	// StorageGiBMonth is that of one GiB of its claims for 730 hours, awake or asleep.
	//
	// +optional
	StorageGiBMonth Price `json:"storageGiBMonth,omitempty"`
}

// Price is a decimal number, such as 0.04.
//
// +kubebuilder:validation:MaxLength=16
// +kubebuilder:validation:Pattern=`^[0-9]{1,9}(\.[0-9]{1,6})?$`
type Price string
