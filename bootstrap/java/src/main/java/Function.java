import com.amazonaws.services.lambda.runtime.Context;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Handlers, one a method: Function::echo and so on. They are those that the conformance suite asks a runtime for. */
public class Function {
    private int calls;

    public Object echo(Object event) {
        return event;
    }

    public Object error(Map<String, Object> event) {
        throw new IllegalStateException((String) event.get("message"));
    }

    public boolean sleep(Map<String, Object> event) throws InterruptedException {
        Thread.sleep(number(event, "ms"));
        return true;
    }

    public Object exit(Map<String, Object> event) {
        System.exit(number(event, "code"));
        return null;
    }

    public String big(Map<String, Object> event) {
        return "x".repeat(number(event, "bytes"));
    }

    public boolean log(Map<String, List<String>> event) {
        event.get("lines").forEach(System.out::println);
        event.get("errors").forEach(System.err::println);
        return true;
    }

    public int count() {
        return ++calls;
    }

    public Map<String, Object> context(Object event, Context context) {
        var client = context.getClientContext();
        var identity = context.getIdentity();
        var told = new HashMap<String, Object>();
        told.put("requestId", context.getAwsRequestId());
        told.put("functionArn", context.getInvokedFunctionArn());
        told.put("remainingMs", context.getRemainingTimeInMillis());
        told.put("traceId", context.getXrayTraceId());
        told.put("clientContext", client == null ? null : Map.of("custom", client.getCustom(), "env", client.getEnvironment()));
        told.put("identity", identity == null ? null : identified(identity.getIdentityId(), identity.getIdentityPoolId()));
        told.put("tenantId", context.getTenantId());
        told.put("functionName", context.getFunctionName());
        told.put("functionVersion", context.getFunctionVersion());
        told.put("memoryMB", context.getMemoryLimitInMB());
        told.put("logGroup", context.getLogGroupName());
        told.put("logStream", context.getLogStreamName());
        return told;
    }

    private static Map<String, String> identified(String identity, String pool) {
        return Map.of("cognitoIdentityId", identity, "cognitoIdentityPoolId", pool);
    }

    private static int number(Map<String, Object> event, String key) {
        return ((Number) event.get(key)).intValue();
    }
}
