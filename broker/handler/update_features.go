package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// updateFeatures finalizes levels of features, all or none (versions 0-2; 1 adds
// types of updates and trying without doing, 2 has no results of each).
func (b *Broker) updateFeatures(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.UpdateFeaturesRequest)
	resp := req.ResponseKind().(*kmsg.UpdateFeaturesResponse)
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	cmd := &control.UpdateFeatures{ValidateOnly: req.ValidateOnly}
	for _, u := range req.FeatureUpdates {
		typ := control.UpgradeType(u.UpgradeType)
		if req.Version == 0 {
			if typ = control.Upgrade; u.AllowDowngrade {
				typ = control.SafeDowngrade
			}
		}
		cmd.Updates = append(cmd.Updates, control.FeatureUpdate{Feature: u.Feature, Level: u.MaxVersionLevel, Type: typ})
	}
	_, err := b.one(ctx, r, cmd)
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = failure(err)
		if len(req.FeatureUpdates) > 1 {
			text := "no feature is updated: " + *resp.ErrorMessage
			resp.ErrorMessage = &text
		}
		done(&protocol.Response{Body: resp})
		return
	}
	for _, u := range req.FeatureUpdates {
		row := kmsg.NewUpdateFeaturesResponseResult()
		row.Feature = u.Feature
		resp.Results = append(resp.Results, row)
	}
	done(&protocol.Response{Body: resp})
}

// features are told in ApiVersions: what this release supports, and from the
// epoch, an index of the metadata, on what is finalized.
//
// The level of the metadata does not have the name metadata.version: levels of that
// are releases of Apache Kafka, to kafka-features.sh as to consoles, which look them
// up in a table and take 2 for Kafka 3.1. Any name and number they show as they are,
// and clients that miss metadata.version miss nothing: Kafka's own look for
// group.version, which says that there is the consumer protocol, always.
func features(img *image.Image, resp *kmsg.ApiVersionsResponse) {
	add := func(name string, low, high, level int16) {
		if low > 0 || resp.Version >= 4 { // older clients take 0 for an error (KIP-584)
			supported := kmsg.NewApiVersionsResponseSupportedFeature()
			supported.Name, supported.MinVersion, supported.MaxVersion = name, low, high
			resp.SupportedFeatures = append(resp.SupportedFeatures, supported)
		}
		if img.Level() == 0 { // of no cluster yet
			return
		}
		finalized := kmsg.NewApiVersionsResponseFinalizedFeature()
		finalized.Name, finalized.MinVersionLevel, finalized.MaxVersionLevel = name, level, level
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, finalized)
		resp.FinalizedFeaturesEpoch = int64(img.Index())
	}
	add(control.GroupVersion, 0, control.OwnGroupVersion, control.OwnGroupVersion)
	add(control.MetadataVersion, int16(image.OwnLevels.Min), int16(image.OwnLevels.Max), int16(img.Level()))
}
