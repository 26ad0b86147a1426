package amqptest

// methodID is a method's class and number (AMQP 0-9-1 §1.3).
type methodID uint32

// class returns the number of the method's class.
func (m methodID) class() uint16 { return uint16(m >> 16) }

// number returns the method's number within its class.
func (m methodID) number() uint16 { return uint16(m) }

const classBasic = 60

const (
	connectionStart     methodID = 10<<16 | 10
	connectionStartOk   methodID = 10<<16 | 11
	connectionTune      methodID = 10<<16 | 30
	connectionTuneOk    methodID = 10<<16 | 31
	connectionOpen      methodID = 10<<16 | 40
	connectionOpenOk    methodID = 10<<16 | 41
	connectionClose     methodID = 10<<16 | 50
	connectionCloseOk   methodID = 10<<16 | 51
	connectionBlocked   methodID = 10<<16 | 60
	connectionUnblocked methodID = 10<<16 | 61

	channelOpen    methodID = 20<<16 | 10
	channelOpenOk  methodID = 20<<16 | 11
	channelFlow    methodID = 20<<16 | 20
	channelFlowOk  methodID = 20<<16 | 21
	channelClose   methodID = 20<<16 | 40
	channelCloseOk methodID = 20<<16 | 41

	exchangeDeclare   methodID = 40<<16 | 10
	exchangeDeclareOk methodID = 40<<16 | 11
	exchangeDelete    methodID = 40<<16 | 20
	exchangeDeleteOk  methodID = 40<<16 | 21
	exchangeBind      methodID = 40<<16 | 30
	exchangeBindOk    methodID = 40<<16 | 31
	exchangeUnbind    methodID = 40<<16 | 40
	exchangeUnbindOk  methodID = 40<<16 | 51

	queueDeclare   methodID = 50<<16 | 10
	queueDeclareOk methodID = 50<<16 | 11
	queueBind      methodID = 50<<16 | 20
	queueBindOk    methodID = 50<<16 | 21
	queuePurge     methodID = 50<<16 | 30
	queuePurgeOk   methodID = 50<<16 | 31
	queueDelete    methodID = 50<<16 | 40
	queueDeleteOk  methodID = 50<<16 | 41
	queueUnbind    methodID = 50<<16 | 50
	queueUnbindOk  methodID = 50<<16 | 51

	basicQos          methodID = 60<<16 | 10
	basicQosOk        methodID = 60<<16 | 11
	basicConsume      methodID = 60<<16 | 20
	basicConsumeOk    methodID = 60<<16 | 21
	basicCancel       methodID = 60<<16 | 30
	basicCancelOk     methodID = 60<<16 | 31
	basicPublish      methodID = 60<<16 | 40
	basicReturn       methodID = 60<<16 | 50
	basicDeliver      methodID = 60<<16 | 60
	basicGet          methodID = 60<<16 | 70
	basicGetOk        methodID = 60<<16 | 71
	basicGetEmpty     methodID = 60<<16 | 72
	basicAck          methodID = 60<<16 | 80
	basicReject       methodID = 60<<16 | 90
	basicRecoverAsync methodID = 60<<16 | 100
	basicRecover      methodID = 60<<16 | 110
	basicRecoverOk    methodID = 60<<16 | 111
	basicNack         methodID = 60<<16 | 120

	confirmSelect   methodID = 85<<16 | 10
	confirmSelectOk methodID = 85<<16 | 11

	txSelect methodID = 90<<16 | 10
)

// methodNames are the names that [Event] and error texts use.
var methodNames = map[methodID]string{
	connectionStart: "connection.start", connectionStartOk: "connection.start-ok",
	connectionTune: "connection.tune", connectionTuneOk: "connection.tune-ok",
	connectionOpen: "connection.open", connectionOpenOk: "connection.open-ok",
	connectionClose: "connection.close", connectionCloseOk: "connection.close-ok",
	connectionBlocked: "connection.blocked", connectionUnblocked: "connection.unblocked",
	channelOpen: "channel.open", channelOpenOk: "channel.open-ok",
	channelFlow: "channel.flow", channelFlowOk: "channel.flow-ok",
	channelClose: "channel.close", channelCloseOk: "channel.close-ok",
	exchangeDeclare: "exchange.declare", exchangeDeclareOk: "exchange.declare-ok",
	exchangeDelete: "exchange.delete", exchangeDeleteOk: "exchange.delete-ok",
	exchangeBind: "exchange.bind", exchangeBindOk: "exchange.bind-ok",
	exchangeUnbind: "exchange.unbind", exchangeUnbindOk: "exchange.unbind-ok",
	queueDeclare: "queue.declare", queueDeclareOk: "queue.declare-ok",
	queueBind: "queue.bind", queueBindOk: "queue.bind-ok",
	queuePurge: "queue.purge", queuePurgeOk: "queue.purge-ok",
	queueDelete: "queue.delete", queueDeleteOk: "queue.delete-ok",
	queueUnbind: "queue.unbind", queueUnbindOk: "queue.unbind-ok",
	basicQos: "basic.qos", basicQosOk: "basic.qos-ok",
	basicConsume: "basic.consume", basicConsumeOk: "basic.consume-ok",
	basicCancel: "basic.cancel", basicCancelOk: "basic.cancel-ok",
	basicPublish: "basic.publish", basicReturn: "basic.return", basicDeliver: "basic.deliver",
	basicGet: "basic.get", basicGetOk: "basic.get-ok", basicGetEmpty: "basic.get-empty",
	basicAck: "basic.ack", basicReject: "basic.reject", basicNack: "basic.nack",
	basicRecoverAsync: "basic.recover-async", basicRecover: "basic.recover", basicRecoverOk: "basic.recover-ok",
	confirmSelect: "confirm.select", confirmSelectOk: "confirm.select-ok",
	txSelect: "tx.select",
}

// begin starts the payload of a method frame.
func begin(id methodID) payload { return make(payload, 0, 64).u32(uint32(id)) }

// channelMethods are the methods that a channel answers. Those with content come to [channel.publish] when they are
// complete.
var channelMethods = map[methodID]func(*channel, *decoder) error{
	channelFlow:       (*channel).flow,
	channelClose:      (*channel).close,
	exchangeDeclare:   (*channel).exchangeDeclare,
	exchangeDelete:    (*channel).exchangeDelete,
	exchangeBind:      (*channel).exchangeBind,
	exchangeUnbind:    (*channel).exchangeUnbind,
	queueDeclare:      (*channel).queueDeclare,
	queueBind:         (*channel).queueBind,
	queuePurge:        (*channel).queuePurge,
	queueDelete:       (*channel).queueDelete,
	queueUnbind:       (*channel).queueUnbind,
	basicQos:          (*channel).qos,
	basicConsume:      (*channel).consume,
	basicCancel:       (*channel).cancel,
	basicGet:          (*channel).get,
	basicAck:          (*channel).ack,
	basicReject:       (*channel).reject,
	basicNack:         (*channel).nack,
	basicRecover:      (*channel).recover,
	basicRecoverAsync: (*channel).recoverAsync,
	confirmSelect:     (*channel).confirmSelect,
}
