package main

import (
	"context"

	"github.com/spf13/cobra"

	"dayfly.dev/dayfly/testcluster/internal/image"
)

type imageOptions struct {
	out  string
	spec image.Spec
}

func newImageCmd() *cobra.Command {
	var o imageOptions
	cmd := &cobra.Command{
		Use:   "image -o OUT.tar REF [SRC=DST…]",
		Short: "make a container image from files and Debian packages",
		Long: "Make a container image without a container engine: of files and folders of the host, which will belong to root, and of\n" +
			"Debian packages with all they depend on, which are downloaded by apt-get and unpacked, not installed: their scripts do not run.",
		Example: "  testcluster image -o app.tar docker.io/dayfly/app:1 ./app=/app --entrypoint /app\n" +
			"  testcluster image -o db.tar docker.io/dayfly/postgres:1 --deb postgresql --user 999:999",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.spec.Ref, o.spec.Files = args[0], args[1:]
			return o.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.out, "output", "o", "", "file to write")
	f.StringArrayVar(&o.spec.Debs, "deb", nil, "Debian package to put in, with all it depends on; can be repeated")
	f.StringArrayVar(&o.spec.Entrypoint, "entrypoint", nil, "program to run, and once more for each argument")
	f.StringArrayVar(&o.spec.Cmd, "cmd", nil, "default argument; can be repeated")
	f.StringArrayVar(&o.spec.Env, "env", nil, "environment variable NAME=VALUE; can be repeated")
	f.StringVar(&o.spec.User, "user", "", "user to run as, such as 1000 or 1000:1000")
	f.StringVar(&o.spec.Workdir, "workdir", "", "folder to run in")
	cmd.MarkFlagRequired("output")
	return cmd
}

func (o *imageOptions) run(ctx context.Context) error { return image.Write(ctx, o.spec, o.out) }
