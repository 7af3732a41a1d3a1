// Package v1alpha1 holds the kinds that people read and write: Session, what one owner asks to be altered, and
// Alteration, what was altered and what is needed to undo it; Environment, a copy of a graph for a time, and Blueprint,
// what it is made from; EnvironmentPolicy, what those who rule the cluster say of environments.
//
// Field comments are the manual (`kubectl explain session.spec`); the rules beside them are checked by the API server.
//
// +kubebuilder:object:generate=true
// +groupName=dayfly.dev
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "dayfly.dev", Version: "v1alpha1"}

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Session{}, &SessionList{}, &Alteration{}, &AlterationList{},
		&Environment{}, &EnvironmentList{}, &Blueprint{}, &BlueprintList{}, &EnvironmentPolicy{}, &EnvironmentPolicyList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

const (
	// Finalizer stands on a Session or an Alteration only while something is altered on its account.
	Finalizer = "dayfly.dev/restore"
	// FieldManager names dayfly's controller in the managed fields of what it writes.
	FieldManager = "dayfly"
	// LabelManaged marks every object that dayfly creates in somebody's namespace; its value is always "dayfly".
	LabelManaged = "dayfly.dev/managed"
	// LabelOriginOf marks the origin Service of a captured Service, and the EndpointSlices that Kubernetes makes for it.
	LabelOriginOf = "dayfly.dev/origin-of"
	// LabelIntercept on a Namespace, with the value InterceptDisabled, closes it to intercepts: new ones are refused, those
	// that are in force end. Only who may update the Namespace itself changes its labels, which Kubernetes' role admin does
	// not include.
	LabelIntercept = "dayfly.dev/intercept"
	// InterceptDisabled is the value of LabelIntercept.
	InterceptDisabled = "disabled"
	// EnvironmentFinalizer stands on an Environment for as long as anything of it may be in the cluster.
	EnvironmentFinalizer = "dayfly.dev/environment"
	// AnnotationRenewed on an Environment changes whenever its lease is renewed.
	AnnotationRenewed = "dayfly.dev/renewed"
	// AnnotationRefresh on an Environment has its source looked up again whenever it changes.
	AnnotationRefresh = "dayfly.dev/refresh"
	// EnvironmentManager names dayfly in the managed fields of an environment's objects.
	EnvironmentManager = "dayfly-environment"
	// EnvironmentAccount is the ServiceAccount in an environment's namespace as which its objects are applied.
	EnvironmentAccount = "dayfly-environment"
	// LabelEnvironment marks the namespace of an environment with the environment's name, LabelHome with its home; LabelComponent
	// marks each object in it with its component.
	LabelEnvironment = "dayfly.dev/environment"
	LabelHome        = "dayfly.dev/home"
	LabelComponent   = "dayfly.dev/component"
	// AnnotationUID on an environment's namespace is the UID of the Environment that it belongs to.
	AnnotationUID = "dayfly.dev/environment-uid"
	// AnnotationGuards on an environment's namespace, and on each guard in it, is a hash of what the guards are to be.
	AnnotationGuards = "dayfly.dev/guards"
	// AnnotationReason on an Environment is why it was pinned or extended last.
	AnnotationReason = "dayfly.dev/reason"
	// HeaderRoutingKey is the request header that carries a routing key where W3C baggage is not passed on.
	HeaderRoutingKey = "x-dayfly-session"
	// BaggageRoutingKey is the W3C baggage member that carries a routing key.
	BaggageRoutingKey = "dayfly"
)

const (
	// ConditionReady is True while everything that the Session asks for is in force.
	ConditionReady = "Ready"
	// ConditionReconciling is True while the controller is working towards Ready.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when no progress is possible without somebody's doing; the message says whose and what.
	ConditionStalled = "Stalled"
	// ConditionExpiresSoon is True on an Environment that is about to end by itself.
	ConditionExpiresSoon = "ExpiresSoon"
	// ConditionApplied is True on an Alteration whose change stands in the cluster.
	ConditionApplied = "Applied"
)
