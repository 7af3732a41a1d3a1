// Package stage is what a pipeline's stage does around its command, while its environment is up: it reaches the components from
// the machine that the command runs on, and collects what is to be kept before the environment goes.
package stage
