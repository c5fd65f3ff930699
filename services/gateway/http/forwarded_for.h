#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_FORWARDED_FOR_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_FORWARDED_FOR_H_

#include <boost/beast/http/fields.hpp>
#include <string>

#include "services/common/net/ip_address.h"

namespace qwenserve {

// Who made a request that came from the IP address `peer`: unless that is a trusted proxy, it did.
// Otherwise the last address in X-Forwarded-For that is no trusted proxy's: what is before it
// anyone can have written. What is no address ends the list.
std::string ForwardedPeer(const NetworkList& trusted, const std::string& peer,
                          const boost::beast::http::fields& head);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_FORWARDED_FOR_H_
