package broker

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/streambus/streambus/broker/history"
)

type whyFunc func(q history.Question, yield func(history.Entry) bool) error

// answerWhy writes entries of the history, each a line of JSON.
func answerWhy(w http.ResponseWriter, r *http.Request, why whyFunc) {
	q, err := question(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	wrote := false
	err = why(q, func(e history.Entry) bool {
		wrote = true
		return out.Encode(e) == nil
	})
	if err != nil && !wrote {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// question reads topic, partition, broker and since, an instant of RFC 3339.
// Without topic and broker it is about the cluster.
func question(v url.Values) (q history.Question, err error) {
	number := func(name string) *int32 {
		text := v.Get(name)
		if text == "" || err != nil {
			return nil
		}
		n, failure := strconv.ParseInt(text, 10, 32)
		if failure != nil {
			err = fmt.Errorf("%s=%s is no number", name, text)
		}
		id := int32(n)
		return &id
	}
	q.Topic, q.Partition, q.Broker = v.Get("topic"), number("partition"), number("broker")
	q.Cluster = q.Topic == "" && q.Broker == nil
	if since := v.Get("since"); since != "" && err == nil {
		if q.Since, err = time.Parse(time.RFC3339Nano, since); err != nil {
			err = fmt.Errorf("since=%s is no time of the form 2006-01-02T15:04:05Z", since)
		}
	}
	return q, err
}

// answerQuorum writes a raftmeta.Info as JSON.
func (b *Broker) answerQuorum(w http.ResponseWriter, r *http.Request) {
	if b.quorum == nil || !b.quorum.formed.Load() {
		http.Error(w, "this node is no controller, or belongs to no cluster yet", http.StatusNotFound)
		return
	}
	info, err := b.quorum.controller.Info(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(info); err != nil {
		b.log.Debug("an answer about the quorum did not leave", "error", err)
	}
}
