// Package protocol holds the Kafka wire protocol as bytes and values: frames,
// request and response headers, the table of APIs, the codec over kmsg, and
// error codes. It performs no I/O and knows nothing of topics or logs.
//
// # Order of decoding
//
// A frame comes from a stranger. What it claims is believed in three steps,
// each cheaper than the damage it prevents:
//
//  1. FrameLimit bounds a frame by what its API can need on its listener, once
//     its first bytes are there and before the rest is allocated.
//  2. The API's Shape walks the body without allocating and fails at the
//     first count, length or tag section that the bytes do not back.
//  3. Only then does kmsg decode. kmsg allocates a struct for each claimed
//     element and loops over a claimed number of tagged fields even past the
//     end of the bytes; after the walk both are bounded by the frame's length.
//
// # Sides
//
// Clients and nodes connect to listeners of their own, and the table says which
// API is served where. What nodes say to each other beyond Kafka's APIs has keys
// from 20000 and one form: a header in JSON, and bytes.
//
// # Records are not copied
//
// The record bytes of a Produce request alias the frame, and so do the header
// and the data of a node's. A handler may use them until it returns; whatever
// outlives the handler must not hold them.
package protocol
