package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Session is a logical environment: alterations of a shared graph, asked for by one owner, held by a lease. Deleting it
// restores everything it altered.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=dayfly
// +kubebuilder:printcolumn:name="Owner",type=string,JSONPath=`.spec.owner.username`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Alters",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Until",type=string,JSONPath=`.status.expiresAt`
// +kubebuilder:printcolumn:name="Host",type=string,JSONPath=`.spec.host`,priority=1
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="a session's name has at most 63 characters"
type Session struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SessionSpec   `json:"spec"`
	Status SessionStatus `json:"status,omitempty"`
}

// SessionList is a list of Sessions.
//
// +kubebuilder:object:root=true
type SessionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Session `json:"items"`
}

// SessionSpec is what the owner asks for.
type SessionSpec struct {
	// Owner is who created the session, as the API server knows them. Admission refuses any other value.
	Owner Owner `json:"owner"`

	// PublicKey is the laptop's public key: the base64 of its PKIX (SubjectPublicKeyInfo) DER form, ECDSA P-256. Only the
	// holder of the private key can connect to the routers as this session.
	//
	// +kubebuilder:validation:MinLength=100
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9+/]+={0,2}$`
	PublicKey string `json:"publicKey"`

	// RoutingKey ties requests to this session: `baggage: dayfly=<routingKey>` or `x-dayfly-session: <routingKey>`.
	// It selects, it is no secret.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	RoutingKey string `json:"routingKey"`

	// Host is the name of the laptop, for people who read the list of sessions.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[ -~]*$`
	Host string `json:"host,omitempty"`

	// Lease is how long the session outlives its last connection: after that it is closed and everything is restored.
	//
	// +optional
	// +kubebuilder:default="8h"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('5s') && duration(self) <= duration('168h')",message="the lease lies between 5s and 168h"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	Lease metav1.Duration `json:"lease,omitempty"`

	// Drain is how long connections that are open when the session closes may go on before they are reset.
	//
	// +optional
	// +kubebuilder:default="15s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('10m')",message="the drain time lies between 0s and 10m"
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Type=string
	Drain metav1.Duration `json:"drain,omitempty"`

	// Intercepts are the requests that the laptop answers.
	//
	// +optional
	// +listType=map
	// +listMapKey=service
	// +listMapKey=port
	// +listMapKey=protocol
	// +kubebuilder:validation:MaxItems=16
	Intercepts []Intercept `json:"intercepts,omitempty"`
}

// Owner is a person or an account, as the API server knows them.
type Owner struct {
	// Username as SelfSubjectReview shows it.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Username string `json:"username"`

	// Groups as SelfSubjectReview shows them; the controller asks with them whether the owner still may.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=512
	Groups []string `json:"groups,omitempty"`
}

// Intercept sends requests for one port of one Service to the laptop. With neither all nor rule, the session's routing
// key decides.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.all) && self.all && has(self.rule))",message="an intercept has a rule or takes all, not both"
// +kubebuilder:validation:XValidation:rule="!has(self.protocol) || self.protocol != 'UDP' || (has(self.all) && self.all)",message="UDP carries no requests that a rule could select: an intercept of a UDP port takes all"
type Intercept struct {
	// Service is the name of a Service in the session's namespace.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Service string `json:"service"`

	// Port is the Service's port, by number.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`

	// Protocol of the Service's port: a Service may have one number for both.
	//
	// +optional
	// +kubebuilder:default=TCP
	// +kubebuilder:validation:Enum=TCP;UDP
	Protocol string `json:"protocol,omitempty"`

	// LaptopPort is where the laptop answers; shown to people, used by the laptop only.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	LaptopPort int32 `json:"laptopPort"`

	// All takes every connection to the port, whatever it carries; of a UDP port, every datagram.
	//
	// +optional
	All bool `json:"all,omitempty"`

	// Rule takes the requests for which every line holds.
	//
	// +optional
	Rule *Rule `json:"rule,omitempty"`
}

// Rule selects requests: every line must hold. Or it selects TLS connections by sni, which stands alone.
//
// +kubebuilder:validation:XValidation:rule="has(self.sni) || (has(self.headers) && size(self.headers) > 0) || (has(self.baggage) && size(self.baggage) > 0)",message="a rule has at least one line"
// +kubebuilder:validation:XValidation:rule="!has(self.sni) || !((has(self.headers) && size(self.headers) > 0) || (has(self.baggage) && size(self.baggage) > 0))",message="sni stands alone: what a TLS connection carries cannot be seen"
type Rule struct {
	// Headers that the request carries, names in any case, values exactly.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Headers []HeaderLine `json:"headers,omitempty"`

	// Baggage are members of the request's W3C baggage.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Baggage []BaggageLine `json:"baggage,omitempty"`

	// SNI is the server name, in lower case, that a TLS connection asks for when it begins; "*." at the front stands for
	// one label, as in certificates. The connection goes to the laptop as it is: dayfly never decrypts. Of Encrypted Client
	// Hello the outer name counts.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^(\*\.)?[-_a-z0-9]{1,63}(\.[-_a-z0-9]{1,63})*$`
	SNI string `json:"sni,omitempty"`
}

// HeaderLine is one header of a request.
type HeaderLine struct {
	// Name of the header, in any case.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern="^[-!#$%&'*+.^_`|~0-9A-Za-z]+$"
	Name string `json:"name"`

	// Value of the header, exactly, without surrounding blanks.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^([!-~]([ -~]*[!-~])?)?$`
	Value string `json:"value"`
}

// BaggageLine is one member of W3C baggage.
type BaggageLine struct {
	// Key of the member.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern="^[-!#$%&'*+.^_`|~0-9A-Za-z]+$"
	Key string `json:"key"`

	// Value of the member, decoded. It has no control characters: others see it in their terminals.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f-\x{9f}]*$`
	Value string `json:"value"`
}

// SessionStatus is what the controller saw last.
type SessionStatus struct {
	// ObservedGeneration is the generation of the spec that the rest of the status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions: Ready, Reconciling, Stalled.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Summary is one line for people: what is altered.
	//
	// +optional
	Summary string `json:"summary,omitempty"`

	// ExpiresAt is when the session closes by itself unless its laptop connects again.
	//
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// Connected is true while the laptop holds a connection to at least one router.
	//
	// +optional
	Connected bool `json:"connected,omitempty"`

	// Version of the controller that wrote this status.
	//
	// +optional
	Version string `json:"version,omitempty"`

	// Tunnel is where and how the laptop connects.
	//
	// +optional
	Tunnel *Tunnel `json:"tunnel,omitempty"`

	// Intercepts, in the order of the spec.
	//
	// +optional
	// +listType=atomic
	Intercepts []InterceptStatus `json:"intercepts,omitempty"`

	// Restored is the proof, written while the session closes: every object that was touched, before and after.
	//
	// +optional
	// +listType=atomic
	Restored []Proof `json:"restored,omitempty"`
}

// Tunnel is where and how the laptop connects.
type Tunnel struct {
	// Namespace of the routers' Services.
	Namespace string `json:"namespace"`

	// Routers are the Services of the router replicas; the laptop connects to each.
	//
	// +listType=atomic
	Routers []string `json:"routers"`

	// CA is the certificate, PEM, that the routers' certificates are issued by.
	CA string `json:"ca"`
}

// InterceptState says where one intercept stands.
//
// +kubebuilder:validation:Enum=Pending;Arming;Armed;Parked;Refused
type InterceptState string

const (
	// StatePending waits for the laptop or for a router.
	StatePending InterceptState = "Pending"
	// StateArming is being put in force.
	StateArming InterceptState = "Arming"
	// StateArmed is in force: every matching request of a connection opened from now on reaches the laptop.
	StateArmed InterceptState = "Armed"
	// StateParked has no laptop: the original answers.
	StateParked InterceptState = "Parked"
	// StateRefused cannot be put in force; the message says why.
	StateRefused InterceptState = "Refused"
)

// InterceptStatus is where one intercept stands.
type InterceptStatus struct {
	Service string         `json:"service"`
	Port    int32          `json:"port"`
	State   InterceptState `json:"state"`

	// Protocol of the port; TCP if it is not there.
	//
	// +optional
	Protocol string `json:"protocol,omitempty"`

	// Reason is a CamelCase word for a state that needs one.
	//
	// +optional
	Reason string `json:"reason,omitempty"`

	// Message says why, for people.
	//
	// +optional
	Message string `json:"message,omitempty"`

	// Capture is how requests reach the routers.
	//
	// +optional
	Capture string `json:"capture,omitempty"`

	// ArmedAt is when it came into force; connections that were open then stay with the original until they end.
	//
	// +optional
	ArmedAt *metav1.MicroTime `json:"armedAt,omitempty"`

	// Rule in force, without values that may be secret.
	//
	// +optional
	Rule string `json:"rule,omitempty"`

	// Since is when this intercept was first armed by this rule.
	//
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`
}

// Proof compares one object before and after.
type Proof struct {
	// Object is kind/name in the session's namespace.
	Object string `json:"object"`

	// Before is the hash of the object as it was before it was first altered.
	Before string `json:"before"`

	// After is the hash of the object as it was seen last; empty if it is gone.
	//
	// +optional
	After string `json:"after,omitempty"`

	// Note says why the two differ, or what is still altered and for whom.
	//
	// +optional
	Note string `json:"note,omitempty"`
}
