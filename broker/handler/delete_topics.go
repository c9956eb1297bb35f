package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// deleteTopics removes topics by name, or from version 6 on by id (versions
// 1-6; 5 adds messages).
func (b *Broker) deleteTopics(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DeleteTopicsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteTopicsResponse)
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	for _, name := range req.TopicNames {
		req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &name})
	}
	img := b.Current(ctx)
	resp.Topics = make([]kmsg.DeleteTopicsResponseTopic, 0, len(req.Topics)) // rows stay where they are
	times := map[image.UUID]int{}
	ids := make([]image.UUID, len(req.Topics))
	for i := range req.Topics {
		if t, ok := topicOf(img, &req.Topics[i]); ok {
			ids[i] = t.ID
			times[t.ID]++
		}
	}
	var all submission
	answered := map[asked]bool{}
	for i := range req.Topics {
		q := &req.Topics[i]
		if named := nameOf(q, ids[i]); answered[named] {
			continue // where it stood first
		} else {
			answered[named] = true
		}
		resp.Topics = append(resp.Topics, kmsg.NewDeleteTopicsResponseTopic())
		row := &resp.Topics[len(resp.Topics)-1]
		row.Topic, row.TopicID = q.Topic, q.TopicID
		cmd, err := b.deletion(req.Version, q, times[ids[i]])
		if t, ok := img.TopicByID(ids[i]); ok && err == errTwice {
			row.Topic = &t.Name
		}
		if err == nil && ids[i].IsZero() {
			err = b.foretell(img, cmd)
		}
		if err != nil {
			row.ErrorCode, row.ErrorMessage = failure(err)
			continue
		}
		all.add(cmd, func(o Outcome) {
			row.ErrorCode, row.ErrorMessage = failure(o.Err)
			if o.Err == nil {
				deleted := o.Reply.(*control.DeletedTopic)
				row.Topic, row.TopicID = &deleted.Name, deleted.ID
			}
		})
	}
	all.run(ctx, b, r)
	done(&protocol.Response{Body: resp})
}

// asked is what a request names: a topic that is there, by name or id, or what it
// said.
type asked struct {
	id   image.UUID
	name string
}

func nameOf(q *kmsg.DeleteTopicsRequestTopic, found image.UUID) asked {
	switch {
	case found != image.UUID{}:
		return asked{id: found}
	case q.Topic != nil:
		return asked{q.TopicID, *q.Topic}
	}
	return asked{id: q.TopicID}
}

// foretell is what the controller would say of a topic that the image does not
// have. It is not asked: a request has room for half a million such names, and a
// topic is in the image before anybody hears that it was created.
func (b *Broker) foretell(img *image.Image, cmd control.Command) error {
	_, err := cmd.Eval(img, b.Now())
	return err
}

func topicOf(img *image.Image, q *kmsg.DeleteTopicsRequestTopic) (*image.Topic, bool) {
	if q.Topic != nil {
		return img.Topic(*q.Topic)
	}
	return img.TopicByID(q.TopicID)
}

func (b *Broker) deletion(version int16, q *kmsg.DeleteTopicsRequestTopic, times int) (control.Command, error) {
	switch {
	case !b.Config.Bool("delete.topic.enable") && version < 3:
		return nil, invalid("topic deletion is disabled: delete.topic.enable=false")
	case !b.Config.Bool("delete.topic.enable"):
		return nil, errDeletionDisabled
	case q.Topic == nil && q.TopicID == [16]byte{}:
		return nil, invalid("neither topic name nor id were specified")
	case q.Topic != nil && q.TopicID != [16]byte{}:
		return nil, invalid("you may not specify both topic name and topic id")
	case times > 1:
		return nil, errTwice
	case q.Topic != nil && *q.Topic == "":
		return nil, errUnknownTopic
	case q.Topic != nil:
		return &control.DeleteTopic{Name: *q.Topic}, nil
	default:
		return &control.DeleteTopic{ID: q.TopicID}, nil
	}
}
