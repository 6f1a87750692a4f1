/** A handler that cannot be loaded. */
public class Fails {
    public Fails() {
        throw new IllegalStateException("as the suite asked");
    }

    public Object handler(Object event) {
        return event;
    }
}
