// Package image holds the cluster's metadata as a value, and the only way to make the next one: replaying records.
//
// An [Image] never changes. [Apply] takes an image and the records of one unit and returns the next image together with a
// [Delta] that says what differs. What is not touched is shared between the two, so an image may be kept for as long as
// somebody reads it, and a snapshot is written from one while later units are applied.
//
// The log carries records, not commands. Whether a change is allowed is decided once, by package control on the active
// controller; replay has nothing left to refuse. A record that does not fit the image it is replayed on means that this
// node and the one that wrote the record disagree about the past. [Apply] panics then, because going on would make the
// disagreement permanent.
//
// # Formats
//
// A unit is: format, hash of the cluster id, id, whether it is awaited, base index, records, CRC. The base is the index of the
// image that the unit was decided on. Because one unit is in flight at a time, that is the unit before it in the log,
// so the units form a chain and a gap cannot go unnoticed.
//
// A snapshot is everything in the image but for what follows from the rest: the ways to topics by name and id, and the index
// from brokers to partitions. Formats and records of the release before are read, and written anew in the newest form.
//
// A record is: type, version, length, fields, tagged fields. Numbers are varints in their shortest form, so that equal
// values have equal bytes. Tagged fields with unknown ids survive a round trip, and those of brokers and topics are
// kept in the image and its snapshot. Partitions have no room for them: a new field of a partition is a new version of
// its records. An unknown type or version is an [UnknownFormatError]: the node is too old for what the cluster has finalized
// and must stop, since skipping the record would fork its state.
package image
