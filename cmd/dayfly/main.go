// Command dayfly gives every change its own short-lived environment on Kubernetes. One binary is everything: the command
// for people, and the roles that run in the cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"dayfly.dev/dayfly/internal/cli"
)

// version is set when a release is built.
var version = "v0.1.0-dev"

func main() {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // not under nohup
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	app := &cli.App{Version: version, Out: os.Stdout, Err: os.Stderr, In: os.Stdin, Wrap: faultPoint()}
	code := cli.Main(ctx, app, cli.NewCommand(app, newControllerCmd(), newRouterCmd(), newGatewayCmd(), newRenderCmd(), newFetchCmd()), os.Args[1:])
	stop()
	os.Exit(code)
}
