package amqptest

import "fmt"

// exception is an error of the protocol, answered with channel.close or connection.close.
type exception struct {
	code uint16
	text string
	hard bool     // ends the connection
	at   methodID // which method failed; 0 if none
}

func (e *exception) Error() string { return fmt.Sprintf("%d %s", e.code, e.text) }

// codeNames are the reply codes' names, with which RabbitMQ begins its texts.
var codeNames = map[uint16]string{
	311: "CONTENT_TOO_LARGE",
	312: "NO_ROUTE",
	313: "NO_CONSUMERS",
	320: "CONNECTION_FORCED",
	402: "INVALID_PATH",
	403: "ACCESS_REFUSED",
	404: "NOT_FOUND",
	405: "RESOURCE_LOCKED",
	406: "PRECONDITION_FAILED",
	501: "FRAME_ERROR",
	502: "SYNTAX_ERROR",
	503: "COMMAND_INVALID",
	504: "CHANNEL_ERROR",
	505: "UNEXPECTED_FRAME",
	506: "RESOURCE_ERROR",
	530: "NOT_ALLOWED",
	540: "NOT_IMPLEMENTED",
	541: "INTERNAL_ERROR",
}

// refuse returns an exception worded as RabbitMQ does: the code's name, a dash, the explanation. Codes from 311 to
// 313 and 403 to 406 end the channel, others the connection (AMQP 0-9-1 §1.2).
func refuse(code uint16, format string, args ...any) *exception {
	soft := 311 <= code && code <= 313 || 403 <= code && code <= 406
	text := codeNames[code] + " - " + fmt.Sprintf(format, args...)
	if len(text) > maxReplyText {
		text = text[:maxReplyText-3] + "..."
	}
	return &exception{code: code, text: text, hard: !soft}
}

// maxReplyText is what a short string holds; RabbitMQ cuts longer texts in the same way.
const maxReplyText = 255
