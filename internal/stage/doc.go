// Package stage collects what is to be kept of a pipeline's stage before its environment goes.
package stage
