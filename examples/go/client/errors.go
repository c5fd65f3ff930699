package client

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrorInfo has the reason of an error and its metadata; nil for one that is not the server's own.
func ErrorInfo(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// retryDelay is the time after which the server asks to try again; false: it does not ask.
func retryDelay(err error) (time.Duration, bool) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// mayRetry tells whether the same request may succeed later or elsewhere: the gateway is gone, or it
// is too busy and says for how long. Other refusals would only be repeated.
func mayRetry(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		return true
	case codes.ResourceExhausted:
		_, asked := retryDelay(err)
		return asked
	case codes.Unknown, codes.Internal:
		// Connections break with these codes; the server's own errors say why.
		return ErrorInfo(err) == nil
	}
	return false
}
