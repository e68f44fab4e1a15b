package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"sync"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	billingQueue, lettersQueue = "go.billing", "go.notifications"
	events                     = "go.events"
	replies                    = "amq.rabbitmq.reply-to" // RabbitMQ's direct reply-to: answers need no queue
)

var errNoQueue = errors.New("no queue takes the message")

type withdrawal struct {
	UserID      uuid.UUID `json:"user_id"`
	Amount      int64     `json:"amount"`
	OperationID uuid.UUID `json:"operation_id"`
}

type answer struct {
	Outcome string `json:"outcome"`
	err     error
}

type event struct {
	EventID uuid.UUID `json:"event_id"`
	UserID  uuid.UUID `json:"user_id"`
	OrderID uuid.UUID `json:"order_id"`
	Kind    string    `json:"kind"`
}

// publisher publishes to one exchange; each caller waits for the confirm of its own message.
type publisher struct {
	sync.Mutex
	channel *amqp.Channel
	waiting map[uint64]publication // by delivery tag
}

type publication struct {
	id   string
	done chan error
}

func newPublisher(channel *amqp.Channel) *publisher {
	p := &publisher{channel: channel, waiting: map[uint64]publication{}}
	must(channel.Confirm(false))
	returns := channel.NotifyReturn(make(chan amqp.Return, 64))
	go p.settle(returns, channel.NotifyPublish(make(chan amqp.Confirmation, 64)))
	return p
}

func (p *publisher) settle(returns <-chan amqp.Return, confirms <-chan amqp.Confirmation) {
	returned := map[string]bool{} // what no queue takes is returned first, and confirmed then
	for {
		select {
		case message := <-returns:
			returned[message.MessageId] = true
		case confirm, ok := <-confirms:
			if !ok {
				return // the process ends, see main
			}
			for len(returns) > 0 {
				returned[(<-returns).MessageId] = true
			}
			p.Lock()
			one := p.waiting[confirm.DeliveryTag]
			delete(p.waiting, confirm.DeliveryTag)
			p.Unlock()
			var err error
			if returned[one.id] || !confirm.Ack {
				delete(returned, one.id)
				err = errNoQueue
			}
			if one.done != nil {
				one.done <- err
			}
		}
	}
}

func (p *publisher) publish(ctx context.Context, id, key string, body []byte) error {
	one := publication{id, make(chan error, 1)}
	p.Lock()
	p.waiting[p.channel.GetNextPublishSeqNo()] = one
	err := p.channel.PublishWithContext(ctx, events, key, true, false,
		amqp.Publishing{MessageId: id, DeliveryMode: amqp.Persistent, Body: body})
	p.Unlock()
	if err != nil {
		return err
	}
	select {
	case err = <-one.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// caller asks billing, and gives each caller the answer to its own question.
type caller struct {
	channel *amqp.Channel
	waiting sync.Map // channels of answers by correlation id
}

func newCaller(channel *amqp.Channel) *caller {
	c := &caller{channel: channel}
	deliveries, err := channel.Consume(replies, "", true, true, false, false, nil)
	must(err)
	settle := func(id string, a answer) {
		if waiting, ok := c.waiting.LoadAndDelete(id); ok {
			waiting.(chan answer) <- a
		}
	}
	returns := channel.NotifyReturn(make(chan amqp.Return, 64))
	go func() {
		for message := range returns {
			settle(message.CorrelationId, answer{err: errNoQueue})
		}
	}()
	go func() {
		for message := range deliveries {
			var a answer
			a.err = json.Unmarshal(message.Body, &a)
			settle(message.CorrelationId, a)
		}
	}()
	return c
}

func (c *caller) withdraw(ctx context.Context, order uuid.UUID, user uuid.UUID, amount int64) (string, error) {
	id, answers := order.String(), make(chan answer, 1)
	c.waiting.Store(id, answers)
	defer c.waiting.Delete(id)
	body, _ := json.Marshal(withdrawal{user, amount, order})
	err := c.channel.PublishWithContext(ctx, "", billingQueue, true, false,
		amqp.Publishing{CorrelationId: id, ReplyTo: replies, DeliveryMode: amqp.Persistent, Body: body})
	if err != nil {
		return "", err
	}
	select {
	case a := <-answers:
		return a.Outcome, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// consume handles the messages of a queue, as many at once as there are connections to the database; what fails is
// delivered again.
func consume(channel *amqp.Channel, queue string, handle func(amqp.Delivery) error) {
	must(channel.Qos(int(db.Config().MaxConns), 0, false))
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	must(err)
	go func() {
		for message := range deliveries {
			go func(message amqp.Delivery) {
				if err := handle(message); err != nil {
					log.Print(err)
					message.Nack(false, true)
					return
				}
				message.Ack(false)
			}(message)
		}
	}()
}
