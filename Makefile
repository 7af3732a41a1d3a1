# Two commands are the whole set-up: make demo and make test. KUBE_CONTEXT=… runs demo against a cluster of yours instead.
export CGO_ENABLED = 0
VERSION ?= v0.1.0-dev
GO_BUILD = go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
TC = bin/testcluster $(if $(TESTCLUSTER_DIR),--dir $(TESTCLUSTER_DIR))

# how long make fuzz runs each target
FUZZTIME ?= 30s

.PHONY: demo test bench bench-many soak stages fuzz build chart cluster images applications install unit e2e generate check down clean debs

demo: build
	test/demo.sh

# debs installs the Debian packages that the test cluster runs on and that tests ask, if any is missing.
debs:
	test/debs.sh git runc containernetworking-plugins nftables iproute2 iptables procps nghttp2-server

build: bin/testcluster bin/dayfly bin/dayfly-faults bin/testapp bin/grpcapp bin/shop

bin/testcluster: $(shell find testcluster -maxdepth 1 -name '*.go') $(shell find testcluster/internal -type f) testcluster/go.sum
	cd testcluster && go build -o ../bin/testcluster .

bin/dayfly: $(shell find api cmd deploy internal -name '*.go' -o -name '*.yaml' -o -name 'values.schema.json') go.sum
	$(GO_BUILD) -o $@ ./cmd/dayfly

# The same, with points at which tests have it die.
bin/dayfly-faults: bin/dayfly
	$(GO_BUILD) -tags faults -o $@ ./cmd/dayfly

bin/testapp: $(wildcard test/e2e/testapp/*.go)
	$(GO_BUILD) -o $@ ./test/e2e/testapp

bin/grpcapp: $(wildcard test/protocols/grpcapp/*.go) test/protocols/go.sum
	cd test/protocols && go build -trimpath -ldflags "-s -w" -o ../../bin/grpcapp ./grpcapp

bin/sourceserver: $(wildcard test/e2e/sourceserver/*.go) go.sum
	$(GO_BUILD) -o $@ ./test/e2e/sourceserver

# With Git from Debian: it is made once.
bin/sourceserver.tar: bin/testcluster bin/sourceserver
	$(TC) image -o $@ docker.io/dayfly/sourceserver:dev bin/sourceserver=/usr/bin/sourceserver --deb git --entrypoint sourceserver --user 65532

bin/shop: $(shell find examples/shop -type f) examples/shop/go.sum
	cd examples/shop && go build -trimpath -ldflags "-s -w" -o ../../bin/shop .

# Renders dayfly's own chart as Helm does.
bin/helmtemplate: $(shell find test/chart -name '*.go') test/chart/go.sum $(shell find deploy -type f)
	cd test/chart && go build -trimpath -o ../../bin/helmtemplate ./helmtemplate

# chart writes the Helm chart: the same objects as dayfly install applies.
chart: bin/dayfly
	mkdir -p dist
	bin/dayfly install --dry-run -o chart > dist/dayfly-$(VERSION:v%=%).tgz

bin/controller-gen: tools/go.mod
	cd tools && go build -o ../$@ sigs.k8s.io/controller-tools/cmd/controller-gen

cluster: debs bin/testcluster
	$(TC) up --nodes 2

image: bin/testcluster bin/dayfly
	$(TC) image -o bin/dayfly.tar docker.io/dayfly/dayfly:$(VERSION) bin/dayfly=/dayfly --entrypoint /dayfly --user 65532

images: build image
	$(TC) image -o bin/dayfly-faults.tar docker.io/dayfly/dayfly-faults:dev bin/dayfly-faults=/dayfly bin/testapp=/testapp --entrypoint /dayfly --user 65532
	$(TC) image -o bin/testapp.tar docker.io/dayfly/testapp:dev bin/testapp=/testapp bin/grpcapp=/grpcapp --entrypoint /testapp --user 65532
	$(TC) image -o bin/shop.tar docker.io/dayfly/shop:dev bin/shop=/shop --user 65532
	for i in dayfly dayfly-faults testapp shop; do $(TC) load bin/$$i.tar || exit 1; done

# applications are what some stories make environments of: the shop's database, what others wrote, and where it is fetched from.
applications: cluster bin/shop-database.tar bin/podinfo.tar bin/alertmanager.tar bin/sourceserver.tar
	for i in shop-database podinfo alertmanager sourceserver; do $(TC) load bin/$$i.tar || exit 1; done

bin/podinfo.tar: test/sources/go.sum
	cd test/sources && go build -trimpath -ldflags "-s -w" -o ../../bin/ github.com/stefanprodan/podinfo/cmd/podinfo github.com/stefanprodan/podinfo/cmd/podcli
	$(TC) image -o $@ docker.io/dayfly/podinfo:dev bin/podinfo=/app/podinfo bin/podcli=/usr/local/bin/podcli --workdir /app --user 100

bin/alertmanager.tar: Makefile
	$(TC) image -o $@ docker.io/dayfly/alertmanager:dev --deb prometheus-alertmanager --entrypoint /usr/bin/prometheus-alertmanager --user 65534

# Remade only when its script changes: it holds all of Debian's PostgreSQL.
bin/shop-database.tar: examples/shop/database/database.sh
	$(TC) image -o $@ docker.io/dayfly/shop-database:dev --deb postgresql $<=/database.sh --user 999

install: cluster images
	KUBECONFIG=$$($(TC) kubeconfig) bin/dayfly install --domain env.test --ingress-class front
	$(TC) kubectl -n dayfly-system rollout restart deploy
	for d in controller gateway router-0 router-1; do $(TC) kubectl -n dayfly-system rollout status deploy/$$d --timeout 120s || exit 1; done

generate: bin/controller-gen
	bin/controller-gen object paths=./api/...
	bin/controller-gen crd paths=./api/... output:crd:dir=deploy/crd

unit:
	go vet ./...
	go test ./api/... ./cmd/... ./internal/... ./deploy/...
	cd examples/shop && go vet ./... && go test ./...
	cd test/chart && go vet ./... && go test ./...
	cd test/protocols && go vet ./... && go test ./...
	cd testcluster && go vet ./... && go test ./...
	cd testcluster/components/kubernetes && go test -trimpath ./netpol/

e2e: install applications bin/helmtemplate
	test/debs.sh chromium
	KUBECONFIG=$$($(TC) kubeconfig) test/e2e.sh

test: debs unit e2e

# fuzz runs every fuzz target there is for FUZZTIME each, one after the other, and prints what each has tried.
fuzz:
	@for p in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
		for f in $$(git grep -ho '^func Fuzz[A-Za-z0-9]*' -- $$p | cut -c6-); do \
			echo "== $$f ($$p)"; go test -trimpath -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -parallel $(or $(FUZZPROCS),2) ./$$p || exit 1; \
		done; \
	done

# soak has 20 laptops do what they please for SOAK, and kills a router at every table; both print what they counted.
SOAK ?= 30m
soak: install
	SOAK=$(SOAK) KILLS=100 KUBECONFIG=$$($(TC) kubeconfig) go test -v -count=1 -timeout 4h -run 'TestSoak$$|TestRouterKilledAtEveryTable' ./test/e2e/

bench: install
	$(TC) image -o bin/bench.tar docker.io/dayfly/bench:dev --deb nginx-light --deb libnginx-mod-stream --deb haproxy
	$(TC) load bin/bench.tar
	KUBECONFIG=$$($(TC) kubeconfig) go test -v -count=1 -tags bench -run TestBench -timeout 30m ./test/e2e/

# stages has every fault at every point of a stage, which make test has some of, and prints how each went.
stages: install applications
	STAGES=all KUBECONFIG=$$($(TC) kubeconfig) go test -v -count=1 -timeout 1h -run 'AnyPointOfAStage$$|TestWhateverEndsAStage|TestStageSays' ./test/e2e/ | tee bin/stages.log
	@echo "$$(grep -c -- '--- PASS: .*/' bin/stages.log) passed, $$(grep -c -- '--- FAIL: .*/' bin/stages.log) failed"
	@! grep -q '^FAIL' bin/stages.log

# kwok plays nodes; how, its own stages say.
bin/kwok: test/nodes/go.sum
	cd test/nodes && go build -trimpath -ldflags "-s -w" -o ../../$@ sigs.k8s.io/kwok/cmd/kwok
	cd test/nodes && stages=$$(go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage && \
		for s in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease pod/fast/pod-ready pod/fast/pod-delete; do echo ---; cat $$stages/$$s.yaml; done > ../../$@.yaml

# bench-many has MANY environments on simulated nodes, and prints what they take of the controller and of the API server.
MANY ?= 1000
bench-many: install bin/kwok
	MANY=$(MANY) KUBECONFIG=$$($(TC) kubeconfig) go test -v -count=1 -tags bench -run TestManyEnvironments -timeout 3h ./test/e2e/

down:
	$(TC) down

clean: down
	rm -rf bin
