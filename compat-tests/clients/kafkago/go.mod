module github.com/streambus/streambus/compat-tests/clients/kafkago

go 1.26.0

require (
	github.com/segmentio/kafka-go v0.4.51
	github.com/streambus/streambus/compat-tests v0.0.0
)

require (
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
)

replace github.com/streambus/streambus/compat-tests => ../..
