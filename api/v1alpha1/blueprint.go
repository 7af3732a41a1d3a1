package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Blueprint is how to make an environment: a folder of manifests, packed. It never changes: another folder is another
// Blueprint, so that a name always means the same content.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=dayfly
// +kubebuilder:printcolumn:name="Digest",type=string,JSONPath=`.spec.digest`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.spec == oldSelf.spec",message="a Blueprint never changes: make another one"
// +kubebuilder:validation:XValidation:rule="self.metadata.name.endsWith('-' + self.spec.digest.substring(7, 19))",message="the name of a Blueprint ends in '-' and the first 12 digits of its digest"
type Blueprint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BlueprintSpec `json:"spec"`
}

// BlueprintList is a list of Blueprints.
//
// +kubebuilder:object:root=true
type BlueprintList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Blueprint `json:"items"`
}

// BlueprintSpec is the content and its digest.
type BlueprintSpec struct {
	// Digest of the folder's content. The controller refuses a Blueprint whose folder has another one.
	//
	// +kubebuilder:validation:Pattern=`^sha256:[0-9a-f]{64}$`
	Digest string `json:"digest"`

	// Folder is the base64 of a gzipped tar of the folder: Kustomize, a Helm chart, or plain manifests, with an optional
	// dayfly.yaml. Packed, it has at most 900 KiB: a cluster stores no larger objects.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1228800
	Folder []byte `json:"folder"`
}
