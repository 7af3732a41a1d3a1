//go:build !unix

package apart

// limit does nothing where there are no such limits: the caller's deadline is what remains.
func (Work) limit() error { return nil }
