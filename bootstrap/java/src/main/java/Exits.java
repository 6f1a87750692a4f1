/** A handler that ends the process while it is loaded. */
public class Exits {
    public Exits() {
        System.exit(7);
    }

    public Object handler(Object event) {
        return event;
    }
}
