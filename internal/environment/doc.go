// Package environment makes, updates and takes away environments: copies of a graph, each in a namespace of its own.
//
// A pass over one Environment observes everything it rests on (observe.go), decides (decide.go, pure: every rule is
// there), writes down what it saw and what it is about to do (the status), and does one step (do.go). It may be
// interrupted anywhere: the next pass observes again.
//
//	made       finalizer → its turn (queue.go) → namespace → guards → components, each after those that it is declared to need → ready
//	changed    components whose objects differ → ready → objects that are no longer in it are deleted
//	ended      components, those that others need last → what else holds on by a finalizer → namespace → finalizer
//
// # What wakes it
//
// Every change of the Environment, of the endpoints in its namespace, and of what is Watched there wakes it; what no watch shows, the
// patrol looks at (watch.go). Whoever renders (renders.go) or fetches (fetches.go) for it does so beside the passes, and wakes it.
//
// # Whose turn
//
// Where an EnvironmentPolicy limits what is awake, an environment has a place from when its turn has come until it is asleep or gone.
// Who is next is decided over all environments at once (admit in queue.go, pure); a pass over one only asks where it stands. Places
// are in the status: whoever leads next knows them before it gives the first.
//
// # Whose rights
//
// The controller itself makes the namespace and its guards (guard.go): quota, limits, network policy, the rights of the
// owner, and last of all the binding that gives the namespace's account its rights. What a policy changes of them follows it; a hash
// on the namespace tells whether it has. Everything else is read and written
// as that account, which can do nothing outside its namespace and nothing to the guards. Whatever a folder of manifests
// holds, it gets no further than that.
//
// # Never a false green
//
// Ready means: every object carries the hash of what this revision asks for, its controller has observed that very
// generation, all replicas are of it and ready, none of an older one is left, and what the revision no longer has is gone.
package environment
