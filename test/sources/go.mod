module dayfly.dev/dayfly/test/sources

go 1.26.0

require github.com/stefanprodan/podinfo v1.8.1-0.20250910200901-e86405a8674e
