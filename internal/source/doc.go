// Package source turns a folder (a kustomization, a Helm chart, or plain manifests) into the objects of an environment, by
// component. It is pure: no cluster, no network, no command is asked, and the same folder and options give the same objects
// (unless a chart draws random numbers, which a warning says).
//
// # From a folder to objects
//
// [ReadFolder] or [Unpack] gives a bounded [Folder]; [Render] does the rest, in this order:
//
//  1. dayfly.yaml at the folder's root, if there is one, says what to render, which parameters there are, and what
//     components need (see [Blueprint]).
//  2. Parameters are checked against their schema. Helm gets them as values; in manifests and kustomizations they take the
//     place of ${NAME}, but only if the source declares or is given any parameter: else ${NAME} is left alone. $${NAME}
//     gives ${NAME}. ${DAYFLY_ENVIRONMENT} and ${DAYFLY_NAMESPACE} are always among them. Files that a kustomization only
//     carries as data (configMapGenerator, secretGenerator) are never changed.
//  3. The objects are rendered, and patched.
//  4. They are placed: see below.
//  5. They are told apart by component, and images and replicas are replaced.
//
// # Namespaces
//
// An environment is one namespace. Objects that name none, and objects that all name the same one, get the environment's; so
// do the subjects of RoleBindings. Two different namespaces are an error, and so is a cluster-scoped object. Two things are
// left out, and a warning says so: the Namespace that the objects were made for, and a chart's crds/. Kinds that are not built
// in are taken for namespaced: whoever applies them asks the cluster.
//
// # Components
//
// A component is a workload with what belongs to it. Workloads are Deployment, StatefulSet, DaemonSet, ReplicaSet, Job,
// CronJob, Pod, and any other kind whose spec.template.spec has containers. Its name is
//
//   - the label or annotation dayfly.dev/component, if it has one: workloads with the same are one component;
//   - else metadata.name.
//
// The labels app.kubernetes.io/name and …/component are not asked: in one application the first, in another the second is the
// same for several workloads. Charts are rendered with the chart's name as the release's, so that names are the same in every
// environment.
//
// Another object belongs to the component that its label or annotation dayfly.dev/component names, else to the one whose
// workloads it selects, scales or routes to, or whose workloads name it (ConfigMap, Secret, PersistentVolumeClaim,
// ServiceAccount; Roles by way of their RoleBinding). What belongs to several or to none is [Shared].
//
// # What needs what
//
// A component needs what dayfly.yaml says, else what the annotation dayfly.dev/needs of its workloads says (names with commas
// between; empty: nothing), else every component whose Service its environment variables, arguments or ConfigMaps name. A cycle
// of declared needs is an error; in a cycle of inferred ones the last is dropped from the order, with a warning, but not from
// what a subset takes along.
package source
