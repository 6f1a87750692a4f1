import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** The function that the tests run on AWS's Java client. The event says what to do; anything else comes back. */
public class App implements RequestHandler<Object, Object> {
    static class BadLuck extends RuntimeException {
        BadLuck(String text) {
            super(text);
        }
    }

    public App() {
        if ("fail".equals(System.getenv("INIT"))) {
            throw new BadLuck("no start");
        }
    }

    @Override
    public Object handleRequest(Object event, Context context) {
        Map<?, ?> wish = event instanceof Map<?, ?> map ? map : Map.of();
        switch (String.valueOf(wish.get("do"))) {
            case "fail":
                throw new BadLuck((String) wish.get("text"));
            case "sleep":
                context.getLogger().log("asleep\n");
                try {
                    Thread.sleep(60_000);
                } catch (InterruptedException e) {
                    throw new RuntimeException(e);
                }
                return null;
            case "exit":
                System.exit(((Number) wish.get("status")).intValue());
                return null;
            case "memory": // fatal for this client: it reports the error and ends
                throw new OutOfMemoryError((String) wish.get("text"));
            case "large":
                return "x".repeat(((Number) wish.get("size")).intValue() - 2);
            case "pid":
                return ProcessHandle.current().pid();
            case "child":
                try {
                    return List.of(ProcessHandle.current().pid(), new ProcessBuilder("sleep", "1000").start().pid());
                } catch (IOException e) {
                    throw new UncheckedIOException(e);
                }
            case "log":
                context.getLogger().log((String) wish.get("text"));
                return null;
            case "context":
                return told(context);
            default:
                return event;
        }
    }

    private static Map<String, Object> told(Context context) {
        var client = context.getClientContext();
        var identity = context.getIdentity();
        Map<String, Object> told = new HashMap<>();
        told.put("client", Arrays.asList(client.getClient().getAppTitle(), client.getCustom(), client.getEnvironment()));
        told.put("identity", Arrays.asList(identity.getIdentityId(), identity.getIdentityPoolId()));
        told.put("arn", context.getInvokedFunctionArn());
        told.put("id", context.getAwsRequestId());
        told.put("tenant", context.getTenantId());
        told.put("trace", System.getProperty("com.amazonaws.xray.traceHeader"));
        told.put("left", context.getRemainingTimeInMillis());
        return told;
    }
}
