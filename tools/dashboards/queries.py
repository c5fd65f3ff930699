"""Parts of expressions that several dashboards share. Every series is selected by namespace and release."""

from grafana import variable

FLEET = 'namespace=~"$namespace",release=~"$release"'
OF_MODEL = 'model=~"$model"'
# Methods that generate.
GENERATE = 'method=~".*(Chat|Complete)"'
OVERLOAD = 'cause=~"requests|bytes|queue_full|displaced|wait"'
ERRORS = 'code=~"UNAVAILABLE|INTERNAL|UNKNOWN|DATA_LOSS|DEADLINE_EXCEEDED"'

NAMESPACE = variable("namespace", "Namespace", "label_values(qwenserve_build_info, namespace)")
RELEASE = variable("release", "Release", 'label_values(qwenserve_build_info{namespace=~"$namespace"}, release)')
MODEL = variable("model", "Model", f"label_values(qwenserve_sequences_running{{{FLEET}}}, model)")


def rate(name, *selectors, window="$__rate_interval"):
    return f"rate({name}{{{','.join((FLEET, *selectors))}}}[{window}])"


def gauge(name, *selectors):
    return f"{name}{{{','.join((FLEET, *selectors))}}}"


def total(expression, by=""):
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def quantile(q, name, *selectors, by=""):
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) ({rate(name + '_bucket', *selectors)}))"


def quantiles(name, *selectors):
    """Three lines: what half, 95 and 99 of 100 stay below."""
    return [(quantile(q, name, *selectors), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)]


def mean(name, *selectors):
    return f"{total(rate(name + '_sum', *selectors))} / {total(rate(name + '_count', *selectors))}"


def error_ratio(window):
    """The same as in the rules of the chart."""
    failed = total(rate("qwenserve_gateway_requests_total", GENERATE, ERRORS, window=window))
    shed = total(rate("qwenserve_gateway_sheds_total", OVERLOAD, window=window))
    return f"({failed} + {shed}) / {total(rate('qwenserve_gateway_requests_total', GENERATE, window=window))}"


def slow_ratio(window):
    fast = total(rate("qwenserve_time_to_first_token_seconds_bucket", OF_MODEL, 'le=~"$first_token_seconds(\\\\.0)?"',
                      window=window))
    return f"1 - {fast} / {total(rate('qwenserve_time_to_first_token_seconds_count', OF_MODEL, window=window))}"
