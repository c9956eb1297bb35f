package image

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// KeyType is the type of a setting, in the numbers of DescribeConfigs.
type KeyType int8

// The types that there are.
const (
	Boolean  KeyType = 1
	Text     KeyType = 2
	Int      KeyType = 3
	Short    KeyType = 4
	Long     KeyType = 5
	Double   KeyType = 6
	List     KeyType = 7
	Class    KeyType = 8
	Password KeyType = 9
)

// Key describes one setting: what it may be, what it is when nobody sets it, and what it does.
type Key struct {
	Name    string
	Type    KeyType
	Default string // empty where Kafka has null
	Doc     string

	check func(string) error // nil: whatever the type allows
	inert bool               // a value that was set does not act
}

// NewKey is a setting that acts, of a type, with what is allowed beyond the type.
func NewKey(name string, typ KeyType, value string, check func(string) error, doc string) Key {
	return Key{Name: name, Type: typ, Default: value, Doc: doc, check: check}
}

// Inert is the setting as one that is accepted and shown, and does not act yet.
func (k Key) Inert() Key {
	k.inert = true
	return k
}

// Acts tells whether setting the key to value makes a difference.
func (k *Key) Acts(value string) bool { return value == k.Default || !k.inert }

// Form is how a value is kept: without space around numbers and switches, which
// Kafka's parser passes over, and switches in lower case.
func (k *Key) Form(value string) string {
	switch k.Type {
	case Text, Class, Password:
		return value
	case Boolean:
		return strings.ToLower(strings.TrimSpace(value))
	}
	return strings.TrimSpace(value)
}

// Check says what is wrong with a value.
func (k *Key) Check(value string) error {
	if err := k.Type.check(value); err != nil {
		return fmt.Errorf("invalid value %s for configuration %s: %w", value, k.Name, err)
	}
	if k.check == nil {
		return nil
	}
	if err := k.check(value); err != nil {
		return fmt.Errorf("invalid value %s for configuration %s: %w", value, k.Name, err)
	}
	return nil
}

func (t KeyType) check(value string) error {
	whole := func(bits int) error {
		if _, err := strconv.ParseInt(value, 10, bits); err != nil {
			return fmt.Errorf("not a number of type %s", t)
		}
		return nil
	}
	switch t {
	case Boolean:
		if value != "true" && value != "false" {
			return errors.New("must be true or false")
		}
	case Short:
		return whole(16)
	case Int:
		return whole(32)
	case Long:
		return whole(64)
	case Double:
		if f, err := strconv.ParseFloat(value, 64); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("not a number of type %s", t)
		}
	}
	return nil
}

func (t KeyType) String() string {
	return [...]string{1: "BOOLEAN", 2: "STRING", 3: "INT", 4: "SHORT", 5: "LONG", 6: "DOUBLE", 7: "LIST", 8: "CLASS", 9: "PASSWORD"}[t]
}

// Millis is a duration. Longer than a hundred years is for ever, and does not overflow.
func Millis(n int64) time.Duration {
	return time.Duration(min(n, 100*365*24*3600*1000)) * time.Millisecond
}

// Items are the values of a list.
func Items(list string) []string {
	var items []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// AtLeast allows numbers from low on.
func AtLeast(low float64) func(string) error { return Between(low, math.Inf(1)) }

// Between allows numbers from low to high.
func Between(low, high float64) func(string) error {
	return func(v string) error {
		switch f, err := strconv.ParseFloat(v, 64); {
		case err != nil:
			return err
		case f < low:
			return fmt.Errorf("must be at least %s", strconv.FormatFloat(low, 'f', -1, 64))
		case f > high:
			return fmt.Errorf("must be no more than %s", strconv.FormatFloat(high, 'f', -1, 64))
		}
		return nil
	}
}

// OneOf allows the given values.
func OneOf(values ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("must be one of: %s", strings.Join(values, ", "))
		}
		return nil
	}
}

// ListOf allows lists of the given values.
func ListOf(values ...string) func(string) error {
	return func(v string) error {
		one := OneOf(values...)
		for _, item := range Items(v) {
			if err := one(item); err != nil {
				return err
			}
		}
		return nil
	}
}
