#!/bin/sh
# The main job of dayfly, from nothing: a request of mine is answered by a process on this laptop, everyone else's are not,
# and afterwards the application is exactly as it was. KUBE_CONTEXT=… uses that cluster instead of a test cluster; it must
# be able to pull the images (DAYFLY_IMAGE, SHOP_IMAGE).
set -eu
cd "$(dirname "$0")/.."
NS=shop
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

if [ -n "${KUBE_CONTEXT:-}" ]; then
	KUBECTL="kubectl --context $KUBE_CONTEXT"
	DAYFLY="bin/dayfly --context $KUBE_CONTEXT"
	$DAYFLY install ${DAYFLY_IMAGE:+--image "$DAYFLY_IMAGE"}
else
	make --no-print-directory install
	TC="bin/testcluster"
	KUBECONFIG=$($TC kubeconfig)
	export KUBECONFIG
	KUBECTL="$TC kubectl"
	DAYFLY="bin/dayfly"
fi

say "The shop: storefront calls catalog and orders, both call stock"
$KUBECTL get namespace $NS >/dev/null 2>&1 || $KUBECTL create namespace $NS
$KUBECTL apply -n $NS -k examples/shop/deploy
[ -z "${SHOP_IMAGE:-}" ] || $KUBECTL -n $NS set image deploy --all "*=$SHOP_IMAGE"
for d in storefront catalog orders stock; do $KUBECTL -n $NS rollout status "deploy/$d" --timeout 120s; done
$DAYFLY session close demo -n $NS >/dev/null 2>&1 || true # of a demo that was interrupted
BEFORE=$($KUBECTL -n $NS get service catalog -o jsonpath='{.spec}')

# asks the storefront from inside the cluster; prints who answered for each service
ask() { $KUBECTL -n $NS exec deploy/orders -- /shop trail "$@" http://storefront/api/shop; }

say "My catalog, with half the prices, runs on this laptop; it calls the cluster's stock through a port-forward"
PORT=18081
STOCK=18083
$KUBECTL -n $NS port-forward svc/stock $STOCK:80 >/dev/null 2>&1 &
FORWARD=$!
HOST=127.0.0.1 PORT=$PORT ADMIN_PORT=off STOCK_URL=http://127.0.0.1:$STOCK SHOP_VERSION=mine PRICE_FACTOR=0.5 LOG_FORMAT=json \
	bin/shop catalog >bin/my-catalog.log 2>&1 &
MINE=$!
trap 'kill $MINE $FORWARD 2>/dev/null || true; $DAYFLY session close demo -n $NS >/dev/null 2>&1 || true' EXIT
trap 'exit 130' INT TERM
CURL=$($DAYFLY intercept service catalog -n $NS --service-port 80 --port $PORT --session demo --drain 5s --detach)
echo "$CURL"
kill -0 $MINE 2>/dev/null || { cat bin/my-catalog.log >&2; exit 1; }
$KUBECTL get sessions,alterations -A

say "With my key, the storefront's call to catalog is answered here"
MY_TRAIL=$(ask -H 'baggage: dayfly=demo')
echo "$MY_TRAIL"
say "Everybody else gets the original"
THEIR_TRAIL=$(ask)
echo "$THEIR_TRAIL"

say "Close, with the proof"
$DAYFLY session close demo -n $NS
AFTER=$($KUBECTL -n $NS get service catalog -o jsonpath='{.spec}')

case $MY_TRAIL in *catalog/mine@*) ;; *) echo "my request was not answered on the laptop" >&2; exit 1 ;; esac
case $THEIR_TRAIL in *catalog/mine@*) echo "a request of others was answered on the laptop" >&2; exit 1 ;; esac
[ "$BEFORE" = "$AFTER" ] || { echo "the service is not as it was" >&2; exit 1; }

say "The cluster stays up (make down ends it). Try:"
[ -n "${KUBE_CONTEXT:-}" ] || echo "  export KUBECONFIG=$KUBECONFIG"
cat <<TXT
  export PATH=\$PWD/bin:\$PATH
  SHOP_VERSION=mine PORT=$PORT ADMIN_PORT=off dayfly intercept service catalog -n $NS -r 80 -l $PORT -- shop catalog
    and in another terminal, from outside the cluster, by way of the storefront:
    $KUBECTL -n $NS port-forward svc/storefront 8080:80
    curl -H 'baggage: dayfly=KEY' http://127.0.0.1:8080/api/shop     # KEY: as the first one says
  dayfly intercept service orders -n $NS -l 8082 --explain
  dayfly graph -n $NS
TXT
