# Starts PostgreSQL, and makes the database POSTGRES_DB of the user POSTGRES_USER first if PGDATA holds none.
# "sh database.sh ready" tells whether it answers, and "sh database.sh stop" ends it without waiting for its sessions.
set -eu
PATH="$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH"
case "${1:-start}" in
ready) exec pg_isready --quiet --host 127.0.0.1 --username "$POSTGRES_USER" ;;
stop) exec pg_ctl stop --mode fast --pgdata "$PGDATA" ;;
esac
if [ ! -s "$PGDATA/made" ]; then # a start that was interrupted begins anew
	rm -rf "$PGDATA"
	(umask 077 && printf %s "$POSTGRES_PASSWORD" >/tmp/password)
	initdb --username "$POSTGRES_USER" --pwfile /tmp/password --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8 >/dev/null
	rm /tmp/password
	echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
	echo "create database \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA" postgres >/dev/null
	date >"$PGDATA/made"
fi
chmod 700 "$PGDATA" # fsGroup opens it to the group, with which PostgreSQL does not start
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
