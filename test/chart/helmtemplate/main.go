// Command helmtemplate prints what Helm would apply of the chart on stdin, with the values it comes with.
package main

import (
	"fmt"
	"os"

	"dayfly.dev/dayfly/test/chart"
)

func main() {
	text, err := chart.Render(os.Stdin, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "helmtemplate:", err)
		os.Exit(1)
	}
	fmt.Print(text)
}
