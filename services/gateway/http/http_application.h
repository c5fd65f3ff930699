#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_APPLICATION_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_APPLICATION_H_

#include <functional>
#include <memory>
#include <optional>

#include "absl/strings/string_view.h"
#include "services/gateway/http/http_message.h"

namespace qwenserve {

// What the HTTP server needs from whoever answers requests, and gives to it. The server knows
// nothing of paths and JSON, the application nothing of sockets.

// One request's way back to its client. Each connection belongs to one thread of the server, on
// which everything here but Post must be called, and on which the handler's methods are called.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  // The whole answer. Nothing may follow.
  virtual void Respond(HttpResponse response) = 0;

  // The head of a stream; it leaves together with the first Send.
  virtual void StartStream(HttpResponse head) = 0;
  // A piece of the stream's body, which must not change until HttpHandler::OnSent; one at a time.
  // Nothing may follow the last.
  virtual void Send(absl::string_view bytes, bool last) = 0;

  // Ends the connection without waiting for the client.
  virtual void Abandon() = 0;

  // Runs `work` on the connection's thread, unless the connection has ended. Thread-safe.
  virtual void Post(std::function<void()> work) = 0;
};

// A request that is being answered. Released after the answer's end or OnClientGone.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // The kernel has taken the bytes of the last Send; not called for the last of a stream.
  virtual void OnSent() = 0;
  // The client has closed the connection, or the server has to.
  virtual void OnClientGone() = 0;
  // The client has taken too little of its answer for too long; the connection is closed.
  virtual void OnSlowClient() { OnClientGone(); }
  // Nothing has been sent for HttpLimits::quiet_interval.
  virtual void OnQuiet() = 0;
};

class HttpApplication {
 public:
  virtual ~HttpApplication() = default;
  // Called when the header is there, before the body is read: an answer here refuses the request.
  virtual std::optional<HttpResponse> Refuse(const HttpRequest& head) = 0;
  // Answers through `exchange`, at once or later. Null: it has answered.
  virtual std::shared_ptr<HttpHandler> Handle(HttpRequest request,
                                              const std::shared_ptr<HttpExchange>& exchange) = 0;
  // An answer to a request that the server itself refuses; `message` names the reason.
  virtual HttpResponse Error(int status, absl::string_view message) = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_APPLICATION_H_
