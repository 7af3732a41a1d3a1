package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Alteration is the record of what dayfly changed about one object, written before the first change, with what is needed
// to undo it. People read it; only dayfly's controller writes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=dayfly
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.status.target`
// +kubebuilder:printcolumn:name="What",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="By",type=string,JSONPath=`.status.by`
// +kubebuilder:printcolumn:name="Applied",type=string,JSONPath=`.status.conditions[?(@.type=="Applied")].status`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Until",type=string,JSONPath=`.status.until`
type Alteration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AlterationSpec   `json:"spec"`
	Status AlterationStatus `json:"status,omitempty"`
}

// AlterationList is a list of Alterations.
//
// +kubebuilder:object:root=true
type AlterationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Alteration `json:"items"`
}

// AlterationSpec is the target, its before-image, and the paths that may be written to undo the change.
type AlterationSpec struct {
	// Target is the altered object, in the Alteration's namespace.
	Target Target `json:"target"`

	// Capture is how requests reach the routers.
	//
	// +kubebuilder:validation:Enum=service
	Capture string `json:"capture"`

	// Before is the object as it was before the first change, for people and for the proof. Restoring writes nothing from
	// here but the target ports listed under ports and who owned those fields.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	Before runtime.RawExtension `json:"before"`

	// BeforeHash is the hash of Before without the fields that the API server keeps for itself.
	BeforeHash string `json:"beforeHash"`

	// Origin is the headless Service that finds the target's own pods while the target's ports lead to the routers.
	//
	// +kubebuilder:validation:MaxLength=63
	Origin string `json:"origin"`

	// Admits are the NetworkPolicies that dayfly made so that routers may call the target's pods, where other policies
	// restrict who may. Each belongs to the policy that it adds to and goes with it; closing deletes them.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	Admits []string `json:"admits,omitempty"`

	// Ports are the captured ports, oldest first.
	//
	// +listType=map
	// +listMapKey=port
	// +listMapKey=protocol
	// +kubebuilder:validation:MaxItems=64
	Ports []CapturedPort `json:"ports"`
}

// Target names one object in the Alteration's namespace.
type Target struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid"`
}

// CapturedPort is one port of a Service that leads to the routers.
type CapturedPort struct {
	// Name of the Service's port.
	//
	// +optional
	Name string `json:"name,omitempty"`

	// Port of the Service.
	Port int32 `json:"port"`

	// +kubebuilder:validation:Enum=TCP;UDP
	Protocol string `json:"protocol"`

	// Before is the port's targetPort before the change.
	Before intstr.IntOrString `json:"before"`

	// After is the port's targetPort while captured: a name that no pod has.
	//
	// +kubebuilder:validation:MaxLength=15
	After string `json:"after"`

	// RouterPort is where every router listens for this port.
	//
	// +kubebuilder:validation:Minimum=20000
	// +kubebuilder:validation:Maximum=29999
	RouterPort int32 `json:"routerPort"`
}

// AlterationStatus is what the controller saw last.
type AlterationStatus struct {
	// Conditions: Applied.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Target as kind/name, for people.
	//
	// +optional
	Target string `json:"target,omitempty"`

	// Summary is one line for people: what is altered.
	//
	// +optional
	Summary string `json:"summary,omitempty"`

	// By names the owners of the sessions that need this alteration.
	//
	// +optional
	By string `json:"by,omitempty"`

	// Sessions that need this alteration.
	//
	// +optional
	// +listType=atomic
	Sessions []string `json:"sessions,omitempty"`

	// Until is when the last of these sessions ends by itself.
	//
	// +optional
	Until *metav1.Time `json:"until,omitempty"`

	// Ports, as they stand.
	//
	// +optional
	// +listType=atomic
	Ports []PortStatus `json:"ports,omitempty"`

	// Callers are the first addresses from which routers took connections to the captured ports, oldest first.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Callers []Caller `json:"callers,omitempty"`

	// Reverts counts how often somebody else undid the change.
	//
	// +optional
	Reverts int32 `json:"reverts,omitempty"`
}

// Caller is an address that called a captured port.
type Caller struct {
	// Port of the Service.
	Port int32 `json:"port"`

	// Address of the caller as the router saw it: a pod's, or a node's if it came from outside.
	//
	// +kubebuilder:validation:MaxLength=45
	Address string `json:"address"`

	// Since is when the controller learned of it.
	Since metav1.Time `json:"since"`
}

// PortPhase is how far one port is on its way to the routers or back.
type PortStatus struct {
	Port int32 `json:"port"`

	// Protocol of the port; TCP if it is not there.
	//
	// +optional
	Protocol string `json:"protocol,omitempty"`

	// FlippedAt is when the Service's port was last seen leading to the routers only.
	//
	// +optional
	ArmedAt *metav1.MicroTime `json:"armedAt,omitempty"`

	// DrainUntil is set once the port leads to its own pods again: until then routers serve what is still open.
	//
	// +optional
	DrainUntil *metav1.MicroTime `json:"drainUntil,omitempty"`
}
