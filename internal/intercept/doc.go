// Package intercept is the router's data plane: it sends the requests that
// match a rule to a laptop's tunnel, and everything else to where it was going,
// as if the router were not there.
//
// # One client connection, one origin connection
//
// Each captured port of a Service has a listener. A connection to it is served
// by one goroutine, which reads a request head into a pooled buffer, parses
// just enough of it to route and to find its end, and writes the same bytes to
// one connection that it keeps for this client alone. So header order, case,
// spacing, duplicates, chunk extensions and trailers survive, and connections
// that are authenticated or sticky stay so. The response comes back the same way. A second
// goroutine exists only while a request body streams; large bodies are spliced
// in the kernel. There is no timeout that a direct connection would not have.
//
// # When in doubt, be a wire
//
// If the bytes are neither plainly HTTP/1.x nor HTTP/2 (TLS, a binary protocol, a head
// over 64 KiB, one that is not complete within seconds, or one whose framing two
// parsers could read in two ways) the rest of the connection is copied in both
// directions and never looked at again. The same holds after an upgrade, after
// a response that ends the connection, and after a response that cannot be
// framed. If the client waits for the server to speak, the origin is dialled
// after a few milliseconds and both sides are listened to.
//
// A port that has a rule for a TLS server name waits, with the same patience, for the ClientHello of a
// connection that starts like TLS; crypto/tls reads it. The connection then is a wire, to the laptop or not.
//
// # HTTP/2
//
// A client that begins with the preface of HTTP/2 in cleartext (gRPC, mostly) is served by
// [h2]. It too has one connection to the origin, with the same streams in it. Every request's
// header block is decoded, to match it; but what came is what is sent, byte for byte, for as
// long as no stream of the connection has gone to a laptop.
//
// A stream that matches is diverted: a [detour] is a connection to its laptop, opened when
// the first such stream comes, on which streams have ids of their own. The origin's decoder then
// lacks the header blocks that laptops have had, so from there on the blocks to the origin are
// encoded anew, starting with an empty table. Blocks from laptops use no table, so that
// those of the origin still pass as they are. All other frames pass unchanged, and in order.
//
// Credit (flow control) of streams is between the two ends. That of the client's connection is
// shared: the origin believes to have all of it, so what laptops use is a debt, paid from
// the next credit of the client; DATA of the origin beyond what the client takes waits. What
// requests to laptops use of the origin's credit, the router gives back when the laptop takes
// the bytes. A PING is for the origin, unless it is due to what a laptop has said, since servers take
// PINGs without traffic for abuse. A slow laptop stalls its own streams only. The bounds are
// constants in h2.go: of one client connection at most 4 MiB of requests wait for laptops,
// 1 MiB of the origin's responses and 1 MiB of each laptop's for the client; of all together, 64 MiB
// of requests.
//
// Streams are opened at a laptop once it has said that it speaks HTTP/2. Until then, without
// a laptop, the origin has them, on a connection of its own, for its streams must come in
// the order of their ids. A laptop whose process speaks something else has its streams reset, and
// the log says so. If its connection ends, its streams are reset: INTERNAL_ERROR, or
// REFUSED_STREAM for those that a GOAWAY says it has not looked at.
//
// What cannot be followed (broken frames or header blocks, a block over 64 KiB) makes the
// connection a wire, so that the origin decides; after a diversion, a client that exceeds a bound is
// told GOAWAY. HTTP/1 with "Upgrade: h2c" is an upgrade like any other: it goes where
// the request went, and stays there.
//
// # Datagrams
//
// A UDP port has flows instead of connections: what one client's socket and one upstream say to one
// another. Each flow has a socket of its own to the origin, or a stream of its own in a tunnel, so
// that answers find their way, and a short queue before it: what does not fit is dropped, and nobody
// waits for anybody. Every datagram is sent by the table in force, so a flow moves at once; what its former
// upstream still says is passed on for a moment. Flows end by silence, as in the kernel, and the ones that were silent
// longest make room. A draining port serves until nobody has said anything for a second.
//
// # What a direct connection would show
//
// Ends and resets travel from one side to the other as what they were. A reader blocked
// on one side cannot see the other side end, so one sweep over all
// connections asks the kernel a few times a second: has the origin closed this
// idle connection, has this client hung up while it waits? That is cheaper than
// a second goroutine for each connection and two hand-overs for each request.
//
// # Tables
//
// A [Table] is the whole configuration and is swapped whole. Each request reads
// the table in force when its head is complete, also on connections that were
// opened under another. That goes for a route that takes the whole port too: its
// HTTP/1 connections follow the table request by request, so ending the intercept
// fails none of them; only what is not HTTP/1 stays with the laptop. A capture
// ends by [Listener.DrainUntil]: responses (in HTTP/2, GOAWAY) then ask their clients to reconnect,
// and whatever is still open at the deadline is reset and counted.
//
// # Fail open
//
// Without a laptop the origin answers, and the response says so in the header
// x-dayfly-fallback. In HTTP/1, a request is sent a second time only if the first one got
// no response, all of it is at hand, and its method is idempotent. Such a request is sent to a laptop together
// with the opening of its stream; any other waits until the laptop's process has accepted the connection.
package intercept
